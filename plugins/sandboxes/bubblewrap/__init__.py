"""Sandbox backend on bubblewrap: namespaces, seccomp and rlimits, without privileges.

What it promises: the program sees a read-only system, a workspace and a /tmp of
limited size, no network, no process but its own; it holds no capability and can't
gain one; dangerous system calls are refused; it and everything that it started
are dead when the run is over. Where the service gets control groups, the kernel
limits memory, processes and processors of a run as a whole; elsewhere each process has
limits of its own, and their sum is watched and ends the run a few hundredths of a second
after it was passed. What it does not promise: the host's kernel is shared, so a hole in
the kernel is a hole in the wall.

In the service:

    command.py    what the program sees: the command line of bwrap; masks.py: not of /proc
    places.py     what bwrap needs for that, and where the launcher has put it
    seccomp.py    which system calls are refused; arguments.py: for their arguments
    spawner.py    has sandboxes started; link.py: the talk with the launcher
    run.py        one run, from outside: feeding it, reading it, ending it
    backend.py    the SandboxBackend

In the launcher, a small process of its own:

    launcher.py   starts sandboxes, sees them end, and ends with the service
    ward.py       one sandbox in its hands
    nest.py       its namespaces, and what it mounts in them
    fence.py      the control groups of the runs; groups_v1.py, groups_v2.py, leftovers.py

What runs inside as PID 1, and the talk with it, is in plugins/_shared/stage.
"""

# The launcher, a module of this package, is to stay small: it has no use for these.
TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from appliance.spi.registry import PluginContext, Registry
    from appliance.spi.sandbox import SandboxBackend


def register(registry: "Registry") -> None:
    """Offer the backend under the name "bubblewrap"."""
    registry.add_sandbox("bubblewrap", _create)


def _create(context: "PluginContext") -> "SandboxBackend":
    from plugins.sandboxes.bubblewrap.backend import Bubblewrap

    return Bubblewrap(context)
