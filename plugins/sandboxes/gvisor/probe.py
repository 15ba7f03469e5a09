"""Checks from inside what a gVisor sandbox isolates, and derives its Isolation."""

import platform
from collections.abc import Set
from typing import Any

import msgspec

from appliance.domain.execution import Isolation, IsolationLevel
from appliance.errors import SandboxUnavailable
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.gvisor.bundle import USER

# The init process, the program, and a child of it.
_MAX_PROCESSES = 3
_SECCOMP_FILTER = 2
# gVisor's kernel shows in its release, or in the build date that it always reports.
_KERNEL_MARKS = ("gvisor", "Sun Jan 10 15:06:54 PST 2016")
_FILES_WATCHED = (
    "the number of files is watched, not enforced by a kernel: this runsc has no limit on it, "
    "and only root can use the host's"
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


def proven_isolation(
    facts: Facts, backend: str, cgroups: CgroupController, platform_name: str, names: Set[str]
) -> Isolation:
    """The isolation that the facts prove; `names` are the only entries allowed in /.

    Raises SandboxUnavailable if a layer is missing.
    """
    if holes := find_holes(facts, names):
        raise SandboxUnavailable(f"the sandbox has holes: {', '.join(holes)}")
    return Isolation(
        backend,
        IsolationLevel.GVISOR,
        (*_layers(cgroups, platform_name), "inode_limit" if facts.files else "inode_watch"),
        (*cgroups.degraded, *([] if facts.files else [_FILES_WATCHED])),
    )


def parse_facts(printed: bytes) -> Facts:
    """Raises SandboxUnavailable for anything but what FACTS prints."""
    try:
        return msgspec.json.decode(printed, type=Facts)
    except msgspec.DecodeError as error:
        raise SandboxUnavailable(f"the sandbox's Python does not work: {error}") from error


def find_holes(facts: Facts, names: Set[str]) -> list[str]:
    """The isolation that is missing."""
    unexpected = sorted(set(facts.root) - names)
    checks: dict[str, Any] = {
        f"the kernel is not gVisor's: {facts.kernel}": not _is_gvisor(facts.kernel),
        "no system-call filter": facts.seccomp != _SECCOMP_FILTER,
        f"the program runs as {facts.user}": facts.user != [USER] * 6,
        "it has capabilities": facts.capabilities != 0,
        "other processes are visible": len(facts.processes) > _MAX_PROCESSES,
        "the network is reachable": facts.interfaces not in ([], ["lo"]),
        f"files of the host are visible: {unexpected}": bool(unexpected),
        f"can write to {facts.writable}": bool(facts.writable),
        "the init process can be inspected": not facts.supervisor_hidden,
        # 3 is the listed folder itself.
        "other descriptors are open": facts.descriptors not in ([0, 1, 2], [0, 1, 2, 3]),
    }
    return [hole for hole, present in checks.items() if present]


def _is_gvisor(kernel: str) -> bool:
    return kernel != f"{platform.release()} {platform.version()}" and any(
        name in kernel for name in _KERNEL_MARKS
    )


def _layers(cgroups: CgroupController, platform_name: str) -> tuple[str, ...]:
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
        *cgroups.layers,
    )
