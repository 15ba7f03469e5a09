"""Confinement of the engine's process from inside, before it reads the model.

lockdown.py    the steps in order, and which of them the machine lacks
privileges.py  capabilities and resource limits
seccomp.py     the system-call filter

Landlock is in plugins/_shared/landlock.py.
"""
