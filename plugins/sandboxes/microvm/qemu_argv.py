"""The command line of QEMU: a machine with a disk to read from, a serial port, and no more."""

from enum import StrEnum

from msgspec import Struct

_MIB = 1024 * 1024
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_KERNEL = ("console=ttyS0", "quiet", "panic=-1", "reboot=t", "pci=off", "random.trust_cpu=on")
# What runs beside the program: the kernel, and Python twice.
_OVERHEAD = 160 * _MIB
_STEP = 64 * _MIB


class Accelerator(StrEnum):
    KVM = "kvm"
    EMULATION = "tcg"


class Shape(Struct, frozen=True, order=True):
    """How large a machine is."""

    memory_mib: int
    processors: int

    def holds(self, other: "Shape") -> bool:
        """Whether a run that asks for the other finds room in this one."""
        return self.memory_mib >= other.memory_mib and self.processors >= other.processors


def shape(memory_bytes: int, cpus: float) -> Shape:
    """The machine for runs of so much memory and so many processors."""
    whole = -(-(memory_bytes + _OVERHEAD) // _STEP) * _STEP
    return Shape(whole // _MIB, max(1, -int(-cpus // 1)))


class Descriptors(Struct, frozen=True):
    """What QEMU finds open, by number. `state` holds a machine to go on with, if any."""

    kernel: int
    initramfs: int
    root: int
    port: int
    monitor: int | None = None
    state: int | None = None

    def all(self) -> list[int]:
        given = (self.kernel, self.initramfs, self.root, self.port, self.monitor, self.state)
        return [fd for fd in given if fd is not None]


def arguments(accelerator: Accelerator, size: Shape, fds: Descriptors) -> list[str]:
    """Everything behind the program's name.

    A machine that goes on from a state must be given the same but for `fds.state`.
    """
    words = [
        *("-nodefaults", "-no-user-config", "-nographic", "-no-reboot"),
        *("-sandbox", _SANDBOX),
        *("-M", "microvm,acpi=on,x-option-roms=off,isa-serial=on"),
        *_processor(accelerator, size),
        *("-m", f"{size.memory_mib}M"),
        *("-kernel", _path(fds.kernel), "-initrd", _path(fds.initramfs)),
        *("-append", " ".join(_KERNEL)),
        *_disk(fds.root),
        *_port(fds.port),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
    ]
    if fds.monitor is not None:
        words += ["-chardev", f"socket,id=monitor,fd={fds.monitor}"]
        words += ["-mon", "chardev=monitor,mode=control"]
    if fds.state is not None:
        words += ["-incoming", f"fd:{fds.state}"]
    return words


def _processor(accelerator: Accelerator, size: Shape) -> list[str]:
    count = ["-smp", str(size.processors)]
    if accelerator is Accelerator.KVM:
        # No machines within machines: that takes code of the host's that nothing here uses.
        return ["-accel", "kvm", "-cpu", "host,-vmx,-svm", *count]
    # Time goes by the instructions done, 4 ns each: a guest that measures its clocks while
    # the host is busy would find them broken and not start.
    return ["-accel", "tcg,tb-size=64", "-icount", "shift=2", "-cpu", "max", *count]


def _disk(fd: int) -> list[str]:
    file = f"driver=file,node-name=file,filename={_path(fd)},read-only=on,locking=off"
    raw = "driver=raw,node-name=root,file=file,read-only=on"
    return ["-blockdev", file, "-blockdev", raw, "-device", "virtio-blk-device,drive=root"]


def _port(fd: int) -> list[str]:
    return [
        *("-chardev", f"socket,id=port,fd={fd}"),
        *("-device", "virtio-serial-device,max_ports=2"),
        *("-device", "virtserialport,chardev=port,name=sandbox"),
    ]


def _path(fd: int) -> str:
    """Works also where the file's folder can't be entered."""
    return f"/proc/self/fd/{fd}"
