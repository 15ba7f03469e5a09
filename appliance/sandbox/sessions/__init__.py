"""Sandbox sessions: a workspace that outlives the runs in it, and the server.

Between runs a workspace is an archive on the disk (appliance.spi.workspace_archive), not a folder:
nothing that a hostile program made exists as a file of the host. A run is the same as one without
a session, in a fresh sandbox with the same limits; it begins with the archive's files and its
workspace is archived again at its end.

records.py        what is kept of a session beside its archive, and the folders on the disk
archive_index.py  finds files in an archive, and verifies one that a sandbox sent
archive_edit.py   adds files to an archive
session.py        SandboxSession: exec, put, get, list, one at a time
manager.py        SessionManager: opens, finds, expires and closes sessions
"""
