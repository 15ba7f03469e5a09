"""The root file system that the runs see instead of the host's, where the administrator chose one.

Every sandbox backend may use it; it is no plugin itself.

    records.py    which one is chosen, and what is known of it
    python.py     whether the box's own Python runs in it
"""
