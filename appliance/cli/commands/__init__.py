"""The commands, one module per noun; each defines `command`.

quickstart.py      one verified task in one command
serve.py           runs the server
task.py            gives a running server a coding task
sandbox.py         runs a program in a running server's sandbox
sandbox_rootfs.py  root file systems for runs
model.py           local models
user.py            user accounts
key.py             API keys
config.py          effective settings and their origins
doctor.py          what this machine offers, and whether `serve` would work
completion.py      completion script of a shell
version.py         the version
"""
