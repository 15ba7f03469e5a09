"""Plugins: providers/ of models, sandboxes/, and _shared/, which several of them use.

A directory of the administrator's plugins is appended to this package's path; see
appliance.plugins.
"""
