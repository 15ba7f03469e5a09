"""Sandbox: runs untrusted code through the strongest backend that works on this machine.

runner.py              SandboxRunner: backend selection, concurrency, runs
backend_selection.py   which probed backend is used
plan_limits.py         limits of a run by the user's plan
user_concurrency.py    concurrent runs per user
sessions/              workspaces that outlive the runs in them
languages/             language recipes, detection, entry points, toolchain cache
python/                the sandbox's own Python interpreter
rootfs/                root file systems: store, import, inspection, archive formats
"""
