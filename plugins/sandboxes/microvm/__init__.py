"""Sandbox backend on QEMU's microvm: each run gets a virtual machine with its own kernel.

The program runs on a kernel that sees a read-only disk, a serial port and no network. To escape it
would have to break the CPU's virtualization (KVM) and QEMU, which itself has no privileges and,
under bwrap, no view of the host. Each run starts from a snapshot of a machine that has booted and
never ran a program; what must differ between runs (randomness, clock) is renewed first.

Without KVM a CPU can be emulated if the settings allow it. The isolation has the same form, but
QEMU's developers do not consider emulation a security boundary, and it is slow.

    backend.py            the SandboxBackend
    machine_factory.py    starts machines: booted, or resumed from the snapshot
    machine.py            one QEMU process and the guest in it
    qemu_spawner.py       starts QEMU in a control group
    qemu_confinement.py   confines QEMU
    qemu_argv.py          QEMU's command line
    qmp.py                saves a machine's state through QEMU's monitor
    boot_files.py         kernel, initramfs and root file system, made once and kept
    kernel.py             finds the host's kernel
    kernel_modules.py     the drivers that a guest needs, in loading order
    initramfs.py          the initramfs
    elf_assembler.py      its only program, assembled from system calls
    root_image.py         the root file system's image
    guest_init.py         PID 1 in the guest; the agent (plugins/_shared/guest) takes over
    probe.py              KVM on this machine; what a guest isolates, seen from inside
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Add the backend under the name "microvm"."""
    registry.add_sandbox("microvm", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.microvm.backend import MicroVm

    return MicroVm(context)
