"""What this machine offers for guests (KVM), and what a guest isolates, seen from inside."""

import os
import stat
from pathlib import Path

import msgspec

from appliance.domain.execution import Isolation, IsolationLevel
from appliance.errors import SandboxUnavailable
from plugins.sandboxes.microvm.machine_factory import MachineFactory
from plugins.sandboxes.microvm.qemu_argv import Accelerator

_KVM = Path("/dev/kvm")
_EMULATION = "or set sandbox.microvm_emulation = true, which is many times slower"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
# The init process, the program, and a child of it.
_MAX_PROCESSES = 3

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
    "has_cgroup": "/run" in open("/proc/self/cgroup").read(),
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
    has_cgroup: bool


def kvm_problem(device: Path = _KVM) -> tuple[str, str]:
    """(problem, remedy) if KVM can't be tried; ("", "") if it can."""
    try:
        mode = device.stat().st_mode
    except OSError:
        return (
            f"this machine offers no virtualization ({device} is missing)",
            "turn it on in the firmware, or for a virtual machine at its host (nested "
            f"virtualization), {_EMULATION}",
        )
    if not stat.S_ISCHR(mode) or not os.access(device, os.R_OK | os.W_OK):
        return (
            f"the server may not use {device}",
            f"add the server's user to the group kvm and restart the server, {_EMULATION}",
        )
    return "", ""


def kvm_boot_problem(error: str) -> tuple[str, str]:
    """(problem, remedy) if KVM can be opened, but a machine with it does not start."""
    return (
        f"{_KVM} can be opened but boots no machine ({error})",
        f"turn on nested virtualization at this machine's host, {_EMULATION}",
    )


def proven_isolation(
    printed: bytes, backend: str, machines: MachineFactory, kvm_lack: str
) -> tuple[Isolation, Facts]:
    """The isolation that the output of FACTS proves. `kvm_lack` is why there is no KVM.

    Raises SandboxUnavailable if a layer is missing.
    """
    try:
        facts = msgspec.json.decode(printed, type=Facts)
    except msgspec.DecodeError as error:
        raise SandboxUnavailable(f"the guest's Python does not work: {error}") from error
    if holes := _find_holes(facts):
        raise SandboxUnavailable(f"the machine has holes: {', '.join(holes)}")
    layers = [
        "own_kernel", *(["kvm"] if machines.accelerator is Accelerator.KVM else []),
        "read_only_system", "no_network", "no_capabilities", "no_new_privileges", "rlimits",
        *(["cgroup_memory", "cgroup_processes", "cgroup_cpu"] if facts.has_cgroup
          else ["memory_watch"]),
        *(["hidden_supervisor"] if facts.supervisor_hidden else []),
        "inode_limit", *machines.spawner.layers,
    ]  # fmt: skip
    degraded = [*machines.spawner.degraded, *machines.degraded]
    if machines.accelerator is not Accelerator.KVM:
        degraded.insert(
            0, f"emulated processor, which is slow and not a security boundary: {kvm_lack}"
        )
    if not facts.has_cgroup:
        degraded.append("the guest's kernel has no control groups: memory is watched")
    level = IsolationLevel.MICROVM
    return Isolation(backend, level, tuple(layers), tuple(degraded)), facts


def _find_holes(facts: Facts) -> list[str]:
    checks = {
        "the kernel is the host's": facts.boot == Path(_BOOT_ID).read_text().strip(),
        "the program is root": facts.user == 0,
        "programs can gain privileges": facts.no_new_privileges != 1,
        "it has capabilities": facts.capabilities != 0,
        "other processes are visible": facts.processes > _MAX_PROCESSES,
        "there is a network": facts.interfaces not in ([], ["lo"]),
        f"can write to {facts.writable}": bool(facts.writable),
    }
    return [hole for hole, present in checks.items() if present]
