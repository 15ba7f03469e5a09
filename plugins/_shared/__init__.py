"""What several plugins use; no plugin itself, and it imports none.

http_provider/    remote providers: HTTP, event streams, failures, model lists
stage/            the first process inside every sandbox, and the protocol with it
guest/            a run inside a guest kernel: agent, channel, results
rootfs/           the root file system that runs see
cgroups/          control groups of both versions
seccomp/          system-call filters and their numbers
landlock.py       Landlock rules, for the engine and inside sandboxes
linux.py          system calls that Python 3.11 has no names for
user_ids.py       user ids of runs
bwrap_binary.py   locates bubblewrap
"""
