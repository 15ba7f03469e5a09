"""The command line of QEMU: a machine with a read-only disk and a serial port, and no more."""

from enum import StrEnum

from msgspec import Struct

_MIB = 1024 * 1024
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_KERNEL = ("console=ttyS0", "quiet", "panic=-1", "reboot=t", "pci=off", "random.trust_cpu=on")
# The kernel, and Python for the agent and the init process.
_OVERHEAD_BYTES = 160 * _MIB
_STEP_BYTES = 64 * _MIB


class Accelerator(StrEnum):
    KVM = "kvm"
    EMULATION = "tcg"


class MachineShape(Struct, frozen=True, order=True):
    """The size of a machine."""

    memory_mib: int
    processors: int

    def can_hold(self, other: "MachineShape") -> bool:
        """Whether a run that needs the other fits into this one."""
        return self.memory_mib >= other.memory_mib and self.processors >= other.processors


def shape_for(memory_bytes: int, cpus: float) -> MachineShape:
    """The smallest machine for a run with this memory and these CPUs."""
    rounded = -(-(memory_bytes + _OVERHEAD_BYTES) // _STEP_BYTES) * _STEP_BYTES
    return MachineShape(rounded // _MIB, max(1, -int(-cpus // 1)))


class QemuDescriptors(Struct, frozen=True):
    """Descriptors that QEMU inherits. `state` is a saved machine to resume, if any."""

    kernel: int
    initramfs: int
    root: int
    port: int
    monitor: int | None = None
    state: int | None = None

    def all(self) -> list[int]:
        fds = (self.kernel, self.initramfs, self.root, self.port, self.monitor, self.state)
        return [fd for fd in fds if fd is not None]


def qemu_arguments(
    accelerator: Accelerator, shape: MachineShape, fds: QemuDescriptors
) -> list[str]:
    """The arguments after the program's name.

    A machine that is resumed needs the arguments of the saved one, except `fds.state`.
    """
    arguments = [
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-M", "microvm,acpi=on,x-option-roms=off,isa-serial=on"),
        *_processor(accelerator, shape),
        *("-m", f"{shape.memory_mib}M"),
        *("-kernel", _fd_path(fds.kernel), "-initrd", _fd_path(fds.initramfs)),
        *("-append", " ".join(_KERNEL)),
        *_disk(fds.root),
        *_port(fds.port),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]
    if fds.monitor is not None:
        arguments += ["-chardev", f"socket,id=monitor,fd={fds.monitor}"]
        arguments += ["-mon", "chardev=monitor,mode=control"]
    if fds.state is not None:
        arguments += ["-incoming", f"fd:{fds.state}"]
    return arguments


def _processor(accelerator: Accelerator, shape: MachineShape) -> list[str]:
    count = ["-smp", str(shape.processors)]
    if accelerator is Accelerator.KVM:
        # No nested virtualization: it would expose code of the host's kernel that nothing needs.
        return ["-accel", "kvm", "-cpu", "host,-vmx,-svm", *count]
    # -icount ties the guest's clock to its instructions (4 ns each): with the host's clock, a guest
    # that calibrates its timers while the host is busy would not start.
    return ["-accel", "tcg,tb-size=64", "-icount", "shift=2", "-cpu", "max", *count]


def _disk(fd: int) -> list[str]:
    file = f"driver=file,node-name=file,filename={_fd_path(fd)},read-only=on,locking=off"
    raw = "driver=raw,node-name=root,file=file,read-only=on"
    return ["-blockdev", file, "-blockdev", raw, "-device", "virtio-blk-device,drive=root"]


def _port(fd: int) -> list[str]:
    return [
        *("-chardev", f"socket,id=port,fd={fd}"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-device", "virtserialport,chardev=port,name=sandbox"),
    ]


def _fd_path(fd: int) -> str:
    """Works even if the file's folder is not accessible."""
    return f"/proc/self/fd/{fd}"
