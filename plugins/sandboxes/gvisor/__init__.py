"""Sandbox backend on gVisor: a kernel of its own, written in Go, between a run and the host's.

What it promises beyond namespaces: the program's system calls are answered by gVisor's
kernel, an ordinary process that itself may make few calls and has no right on the host.
A hole in Linux that a program reaches by a system call is so not a hole in this wall; one
in gVisor leads into a process that is confined again. It takes the program runsc, which
the administrator installs, and costs a fifth of a second and more per run.

    runsc.py         finds the program, and what it can do
    bundle.py        what the program sees: the root file system and config.json
    rooms.py         what it may write to
    launch.py        on the host: owns one runsc and everything that it starts
    spawner.py       starts that
    tree.py          its process tree: killing it, seeing that it is dead
    differences.py   where its kernel is not what the stage knows
    probe.py         what a sandbox must be like, seen from inside
    words.py         what an administrator is told
    backend.py       the SandboxBackend

What runs inside, and the talk with it, is in plugins/_shared/guest.
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Offer the backend under the name "gvisor"."""
    registry.add_sandbox("gvisor", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.gvisor.backend import GVisor

    return GVisor(context)
