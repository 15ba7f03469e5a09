"""Runs, on the service's side: they start in a sandbox of the launcher and are watched here.

spawner.py                starts sandboxes through the launcher, and the launcher when it ended
launcher_client.py        the launcher's process and the socket to it
launcher_capabilities.py  what the launcher can enforce on this machine
sandbox_handle.py         the state of one sandbox, as the launcher reports it
slots.py                  how many sandboxes there may be
process_tree.py           kills a sandbox and waits for its end
run.py                    one run: input, output, time limits
sandbox.py                a sandbox with its run and its user id
"""
