"""The root file system that runs see instead of the host's, if the administrator chose one.

selection.py      finds the one that the setting sandbox.rootfs names
python.py         chooses the Python: the bundled one, or that of the root
system_mounts.py  bwrap options that show the system's folders
"""
