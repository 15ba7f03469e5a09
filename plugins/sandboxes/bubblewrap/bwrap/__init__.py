"""What a run sees of the host: bwrap's arguments and the files that it needs.

layout.py      what the launcher lays out, and the paths where bwrap finds it
argv.py        the arguments of bwrap
hidden_programs.py  programs of languages that are not offered
proc_masks.py  what is hidden of /proc
"""
