"""What a sandbox is like, seen from inside, and what that says of its walls."""

import platform
from collections.abc import Set
from typing import Any

import msgspec

from appliance.domain.execution import Isolation, IsolationLevel
from appliance.errors import SandboxUnavailable
from plugins._shared.cgroups.control import Fence
from plugins.sandboxes.gvisor.bundle import USER

# The stage, the program, and a child of it.
_MOST_PROCESSES = 3
_SECCOMP_FILTER = 2
# gVisor's kernel tells itself by its release, or by the date that it always says.
_ITS_OWN_NAMES = ("gvisor", "Sun Jan 10 15:06:54 PST 2016")
_FILES_UNCOUNTED = (
    "the number of files is watched, not held by a kernel: this runsc knows no limit on it, "
    "and only root can have the host's"
)
FACTS = """
import json, os, platform, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def writable(path):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
    except OSError:
        return False
    return True
print(json.dumps({
    "python": platform.python_version(),
    "kernel": platform.release() + " " + platform.version(),
    "seccomp": int(status["Seccomp"]),
    "user": os.getresuid() + os.getresgid(),
    "capabilities": max(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapInh")),
    "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "root": sorted(os.listdir("/")),
    "writable": [path for path in ("/x", "/etc/x", "/usr/x", "/opt/python/x", "/dev/x", "/run/x")
                 if writable(path)],
    "supervisor_hidden": not os.access("/proc/1/fd", os.F_OK),
    "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    "files": min(os.statvfs(path).f_files for path in ("/workspace", "/tmp", "/dev/shm")),
}))
"""


class Facts(msgspec.Struct, frozen=True):
    """What the program FACTS prints."""

    python: str
    kernel: str
    seccomp: int
    user: list[int]
    capabilities: int
    processes: list[int]
    interfaces: list[str]
    root: list[str]
    writable: list[str]
    supervisor_hidden: bool
    descriptors: list[int]
    files: int


def isolation(
    facts: Facts, backend: str, fence: Fence, platform_name: str, names: Set[str]
) -> Isolation:
    """The isolation that these facts prove, where `names` are all that may be at the root.

    Raises SandboxUnavailable if a wall is missing.
    """
    if missing := holes(facts, names):
        raise SandboxUnavailable(f"the sandbox has holes: {', '.join(missing)}")
    return Isolation(
        backend,
        IsolationLevel.GVISOR,
        (*_layers(fence, platform_name), "inode_limit" if facts.files else "inode_watch"),
        (*fence.degraded, *([] if facts.files else [_FILES_UNCOUNTED])),
    )


def parsed(printed: bytes) -> Facts:
    """Raises SandboxUnavailable for anything but what FACTS prints."""
    try:
        return msgspec.json.decode(printed, type=Facts)
    except msgspec.DecodeError as error:
        raise SandboxUnavailable(f"the sandbox's Python does not work: {error}") from error


def holes(facts: Facts, names: Set[str]) -> list[str]:
    """What is not as it must be."""
    strange = sorted(set(facts.root) - names)
    checks: dict[str, Any] = {
        f"the kernel is not gVisor's: {facts.kernel}": not _is_gvisor(facts.kernel),
        "no system-call filter": facts.seccomp != _SECCOMP_FILTER,
        f"the program runs as {facts.user}": facts.user != [USER] * 6,
        "capabilities are left": facts.capabilities != 0,
        "other processes are visible": len(facts.processes) > _MOST_PROCESSES,
        "the network is reachable": facts.interfaces not in ([], ["lo"]),
        f"files of the host are visible: {strange}": bool(strange),
        f"can write to {facts.writable}": bool(facts.writable),
        # 3 is the folder that lists them.
        "the supervisor can be reached": not facts.supervisor_hidden,
        "descriptors are left open": facts.descriptors not in ([0, 1, 2], [0, 1, 2, 3]),
    }
    return [what for what, wrong in checks.items() if wrong]


def _is_gvisor(kernel: str) -> bool:
    return kernel != f"{platform.release()} {platform.version()}" and any(
        name in kernel for name in _ITS_OWN_NAMES
    )


def _layers(fence: Fence, platform_name: str) -> tuple[str, ...]:
    return (
        "gvisor_kernel",
        f"gvisor_{platform_name}",
        *("pid_namespace", "mount_namespace", "ipc_namespace", "net_namespace"),
        *(
            "read_only_system",
            "no_network",
            "seccomp",
            "no_capabilities",
            "rlimits",
            "hidden_supervisor",
        ),
        *fence.layers,
    )
