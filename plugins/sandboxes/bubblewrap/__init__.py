"""Sandbox backend on bubblewrap: namespaces, seccomp and rlimits, without privileges.

Guaranteed: the program sees a read-only system, a workspace and a /tmp of limited size, no
network, and no processes but its own. It holds no capabilities and can't gain any. Dangerous
system calls are refused. It and every process that it started have ended when the run is over.
Where the service can make control groups, the kernel limits memory, processes and processors of
a run as a whole; elsewhere each process has limits of its own, and their sum is measured
periodically and ends the run when it is exceeded. Not guaranteed: protection from vulnerabilities
of the host's kernel, which is shared.

A run: the backend takes a prewarmed sandbox or has one created; the service sends the job to its
init process (plugins/_shared/stage), reads output and report, and kills it at a time limit; the
launcher reports the end and what was used; the result is built from both.

    backend.py    the SandboxBackend
    runs/         runs, on the service's side; the client of the launcher
    pool/         prewarmed sandboxes
    bwrap/        bwrap's arguments and files: what the program sees of the host
    launcher/     the process that starts sandboxes and sees them end; ends with the service
    results.py    converts a finished run to its result
    probe.py      verifies the isolation from inside
    diagnosis.py  why no sandbox can be made, and the remedy

Control groups are in plugins/_shared/cgroups, the system-call filter in plugins/_shared/seccomp.
"""

# Not imported at run time: the launcher imports this package and is to stay small.
TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from appliance.spi.registry import PluginContext, Registry
    from appliance.spi.sandbox import SandboxBackend


def register(registry: "Registry") -> None:
    """Register the backend "bubblewrap"."""
    registry.add_sandbox("bubblewrap", _create)


def _create(context: "PluginContext") -> "SandboxBackend":
    from plugins.sandboxes.bubblewrap.backend import Bubblewrap

    return Bubblewrap(context)
