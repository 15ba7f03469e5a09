"""Sandbox backend on bubblewrap: namespaces, seccomp and rlimits, without privileges.

What it promises: the program sees a read-only system, a workspace and a /tmp of
limited size, no network, no process but its own; it holds no capability and can't
gain one; dangerous system calls are refused; it and everything that it started
are dead when the run is over. What it does not promise: the host's kernel is
shared, so a hole in the kernel is a hole in the wall. And there is no kernel
limit for the memory of a run as a whole: each process has its own, and their sum
is watched and ends the run a few hundredths of a second after it was passed.

    command.py    what the program sees: the command line of bwrap
    places.py     where bwrap finds it; for root, in a mount namespace of our own
    seccomp.py    which system calls are refused
    stage.py      runs inside as PID 1: files in, the program, artifacts out
    run.py        one run, from outside: feeding it, reading it, ending it
    backend.py    the SandboxBackend
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Offer the backend under the name "bubblewrap"."""
    registry.add_sandbox("bubblewrap", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.bubblewrap.backend import Bubblewrap

    return Bubblewrap(context)
