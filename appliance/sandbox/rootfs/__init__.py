"""Root file systems that an administrator adds for the sandbox to use instead of the host's files.

store.py         RootfsStore: list, add, remove, check
importer.py      import of an image, an archive or a folder
formats/         reading the source formats as archive entries
tree_writer.py   writing entries below a folder, and nowhere else
inspection.py    whether a tree is the root of a system, and its shell, Python and C library
fingerprint.py   digest and size of a tree
directory.py     the folder of all root file systems: lock, scratch folder, publishing
"""
