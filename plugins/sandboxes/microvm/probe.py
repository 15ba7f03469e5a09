"""What a guest is like, seen from inside, and what that says of its walls."""

from pathlib import Path

import msgspec

from appliance.domain.execution import Isolation, IsolationLevel
from appliance.errors import SandboxUnavailable
from plugins.sandboxes.microvm.machine_pool import Machines
from plugins.sandboxes.microvm.qemu_argv import Accelerator

_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The stage, the program, and a child of it.
_MOST_PROCESSES = 3

FACTS = """
import json, os, platform, socket
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
def opened(path, flags=os.O_RDONLY):
    try:
        os.close(os.open(path, flags))
    except OSError:
        return False
    return True
def writable(path):
    return opened(path, os.O_WRONLY | os.O_CREAT)
print(json.dumps({
    "python": platform.python_version(),
    "kernel": platform.release(),
    "boot": open(BOOT_ID).read().strip(),
    "user": os.getuid(),
    "no_new_privileges": int(status["NoNewPrivs"]),
    "capabilities": max(int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "writable": [path for path in ("/x", "/etc/x", "/usr/x", "/opt/python/x", "/dev/x",
                                   "/dev/vda", "/dev/kmsg", "/proc/sys/kernel/core_pattern")
                 if writable(path)],
    "supervisor_hidden": not opened("/proc/%d/mem" % os.getppid()),
    "grouped": "/run" in open("/proc/self/cgroup").read(),
}))
""".replace("BOOT_ID", repr(_BOOT_ID))


class Facts(msgspec.Struct, frozen=True):
    """What the program FACTS prints."""

    python: str
    kernel: str
    boot: str
    user: int
    no_new_privileges: int
    capabilities: int
    processes: int
    interfaces: list[str]
    writable: list[str]
    supervisor_hidden: bool
    grouped: bool


def isolation(
    printed: bytes, backend: str, machines: Machines, lack: str
) -> tuple[Isolation, Facts]:
    """The isolation that these facts prove. `lack` is why there is no KVM.

    Raises SandboxUnavailable if a wall is missing.
    """
    try:
        facts = msgspec.json.decode(printed, type=Facts)
    except msgspec.DecodeError as error:
        raise SandboxUnavailable(f"the guest's Python does not work: {error}") from error
    if missing := _missing(facts):
        raise SandboxUnavailable(f"the machine has holes: {', '.join(missing)}")
    layers = [
        "own_kernel", *(["kvm"] if machines.accelerator is Accelerator.KVM else []),
        "read_only_system", "no_network", "no_capabilities", "no_new_privileges", "rlimits",
        *(["cgroup_memory", "cgroup_processes", "cgroup_cpu"] if facts.grouped
          else ["memory_watch"]),
        *(["hidden_supervisor"] if facts.supervisor_hidden else []),
        "inode_limit", *machines.starter.layers,
    ]  # fmt: skip
    degraded = [*machines.starter.degraded, *machines.degraded]
    if machines.accelerator is not Accelerator.KVM:
        degraded.insert(0, f"emulated processor, which is slow and not made as a wall: {lack}")
    if not facts.grouped:
        degraded.append("the guest's kernel has no control groups: memory is watched")
    level = IsolationLevel.MICROVM
    return Isolation(backend, level, tuple(layers), tuple(degraded)), facts


def _missing(facts: Facts) -> list[str]:
    checks = {
        "the kernel is the host's": facts.boot == Path(_BOOT_ID).read_text().strip(),
        "the program is root": facts.user == 0,
        "programs can gain privileges": facts.no_new_privileges != 1,
        "capabilities are left": facts.capabilities != 0,
        "the supervisor's processes are visible": facts.processes > _MOST_PROCESSES,
        "there is a network": facts.interfaces not in ([], ["lo"]),
        f"can write to {facts.writable}": bool(facts.writable),
    }
    return [what for what, wrong in checks.items() if wrong]
