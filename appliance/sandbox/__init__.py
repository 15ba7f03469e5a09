"""Sandbox: runs untrusted code through the strongest backend that works on this machine.

runner.py              SandboxRunner: backend selection, fair queue, runs
backend_selection.py   which probed backend is used
plan_limits.py         limits of a run by the user's plan
sessions/              workspaces that outlive the runs in them
languages/             language recipes, detection, entry points, toolchain cache
python/                the sandbox's own Python interpreter
rootfs/                root file systems: store, import, inspection, archive formats
"""
