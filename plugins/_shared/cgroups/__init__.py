"""Control groups of runs, for every sandbox backend (see cgroups(7)).

controller.py  creates groups, by the version that this machine gives the service
base.py        what the versions share: the protocols, limits, reading and writing control files
v1.py, v2.py   the two versions
stale.py       who owns a group; removes those whose owner has ended

Imported by the sandbox launcher, which is to stay small: no pathlib, no msgspec, nothing here.
"""
