"""Sandbox backend on bubblewrap: namespaces, seccomp and rlimits, without privileges.

What it promises: the program sees a read-only system, a workspace and a /tmp of
limited size, no network, no process but its own; it holds no capability and can't
gain one; dangerous system calls are refused; it and everything that it started
are dead when the run is over. Where the service gets control groups, the kernel
limits memory, processes and processors of a run as a whole; elsewhere each process has
limits of its own, and their sum is watched and ends the run a few hundredths of a second
after it was passed. What it does not promise: the host's kernel is shared, so a hole in
the kernel is a hole in the wall.

    command.py    what the program sees: the command line of bwrap
    places.py     where bwrap finds it; for root, in a mount namespace of our own
    seccomp.py    which system calls are refused
    fence.py      the control groups of the runs; groups_v1.py, groups_v2.py
    keeper.py     clears those away when the service is killed
    run.py        one run, from outside: feeding it, reading it, ending it
    backend.py    the SandboxBackend

What runs inside as PID 1, and the talk with it, is in plugins/inside.
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Offer the backend under the name "bubblewrap"."""
    registry.add_sandbox("bubblewrap", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.bubblewrap.backend import Bubblewrap

    return Bubblewrap(context)
