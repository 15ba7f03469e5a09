"""The launcher's process (see main.py). What it imports stays in its memory: nothing here.

main.py             its two processes, and the messages that it exchanges with the service
sandbox_process.py  one sandbox: bwrap, PID 1, slot and control group
mounts.py           the launcher's namespaces, and what is mounted for the sandboxes
base_mount.py       mounts a run's base
spawn_request.py    the request to start a sandbox, and the limits that the kernel enforces
channel.py          the launcher's end of the socket
wire.py             message format
"""
