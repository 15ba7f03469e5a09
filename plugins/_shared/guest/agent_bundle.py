"""The files that have to lie together in one folder of a guest for the agent to run."""

import platform

from appliance.errors import SandboxUnavailable
from plugins._shared.seccomp import run_filter
from plugins._shared.stage.bytecode import pyc_files

_MODULES = (
    "plugins._shared.linux",
    "plugins._shared.guest.agent",
    "plugins._shared.guest.pidfd",
    "plugins._shared.guest.file_count",
    "plugins._shared.stage.init",
    "plugins._shared.stage.collect",
    "plugins._shared.stage.workspace",
    "plugins._shared.stage.memory_watch",
    "appliance.spi.workspace_archive",
)


def agent_files() -> dict[str, bytes]:
    """Content of each file by name; `agent.pyc` is the one to start.

    `filter.bpf` holds the system calls that a run is refused on this machine. Raises
    SandboxUnavailable.
    """
    machine = platform.machine()
    if not run_filter.is_supported(machine):
        raise SandboxUnavailable(f"no system-call filter is known for {machine} machines")
    return pyc_files(_MODULES) | {"filter.bpf": run_filter.build_run_filter(machine)}
