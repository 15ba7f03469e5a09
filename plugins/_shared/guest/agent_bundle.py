"""What has to lie together in one folder of a guest for the agent to run."""

import importlib.util
import marshal
import platform
from collections.abc import Callable
from types import CodeType

from appliance.errors import SandboxUnavailable
from plugins._shared.seccomp import run_filter

_UNCHECKED_HASH = (1).to_bytes(4, "little") + bytes(8)
_MODULES = {
    "agent": "plugins._shared.guest.agent",
    "pidfd": "plugins._shared.guest.pidfd",
    "filecount": "plugins._shared.guest.file_count",
    "stage": "plugins._shared.stage.init",
    "collect": "plugins._shared.stage.collect",
    "memory": "plugins._shared.stage.memory_watch",
}


def agent_files() -> dict[str, bytes]:
    """Name and content of each file; `agent.pyc` is the one to start.

    The .pyc files (PEP 552, unchecked) are for a Python of the service's own version, and
    made also where the product has no sources beside it; `filter.bpf` holds the system
    calls that a run is refused on this machine. Raises SandboxUnavailable.
    """
    machine = platform.machine()
    if not run_filter.supported(machine):
        raise SandboxUnavailable(f"no system-call filter is known for {machine} machines")
    files = {f"{name}.pyc": compiled(module) for name, module in _MODULES.items()}
    return files | {"filter.bpf": run_filter.program(machine)}


def compiled(module: str) -> bytes:
    """That module alone as such a file. Raises SandboxUnavailable."""
    spec = importlib.util.find_spec(module)
    read: Callable[[str], CodeType] | None = getattr(spec and spec.loader, "get_code", None)
    if read is None:
        raise SandboxUnavailable(f"the module {module} is not whole: install the product anew")
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + marshal.dumps(read(module))
