"""Sandbox backend on gVisor: a kernel written in Go stands between a run and the host's kernel.

The program's system calls are answered by gVisor's kernel, an ordinary process that itself may
make few system calls and has no privileges on the host. So a vulnerability in Linux that a system
call reaches is out of the program's reach, and one in gVisor leads into a process that is confined
again. It needs the program runsc, which the administrator installs, and costs at least 0.2 seconds
per run.

    backend.py             the SandboxBackend
    runsc.py               finds runsc, its version and platforms
    bundle.py              what a run sees: the root folder, and an OCI bundle for each run
    tmpfs_mounts.py        the folders that a run may write to
    spawner.py             starts the launchers
    launcher.py            on the host: owns one runsc and everything that it starts
    process_tree.py        the processes of a run: how they are killed and reaped
    kernel_differences.py  where gVisor's kernel differs from what the init process expects
    probe.py               what a sandbox isolates, seen from inside

The agent that runs inside and the server's side of it are in plugins/_shared/guest.
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Add the backend under the name "gvisor"."""
    registry.add_sandbox("gvisor", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.gvisor.backend import GVisor

    return GVisor(context)
