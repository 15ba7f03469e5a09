"""What languages need ready-made beside the host's own files, such as a compiled library.

    sandbox-prepared/NAME/    for the language of that name, made in the sandbox itself

Runs see the folder read-only; a name appears whole or not at all.
"""

FOLDER = "sandbox-prepared"
INSIDE = "/opt/prepared"
