"""Source formats of root file systems: tar, compressed tar, squashfs, folder."""
