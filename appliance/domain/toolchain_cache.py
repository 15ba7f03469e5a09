"""Toolchain cache: artifacts that a language would otherwise build anew in each run.

    sandbox-prepared/NAME/    artifacts of the language NAME, built in the sandbox

Runs see the folder read-only at MOUNT_POINT. A folder NAME is created atomically.
"""

DIRECTORY = "sandbox-prepared"
MOUNT_POINT = "/opt/prepared"
