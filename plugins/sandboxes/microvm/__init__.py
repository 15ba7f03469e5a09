"""Sandbox backend on QEMU's microvm: each run gets a kernel and a machine of its own.

What it promises beyond the namespaces: the host's kernel is not shared. The program runs
on a kernel of its own that sees a disk it can only read, a serial port, and no network;
what it would have to break to get out is the processor's virtualization (KVM) and QEMU,
which is itself without privileges and, with bwrap, without a view of the host. Each run
begins from a snapshot of a machine that has just started and never ran a program; what
must not be the same in two runs (randomness, clock) is renewed before the program starts.

Without KVM a processor can be emulated, if the settings allow it: the walls are the same
in kind, but QEMU's developers do not treat its emulation as one, and it is slow.

    kernel.py, modules.py          the host's kernel and the drivers that it needs
    cpio.py, first_program.py, initramfs.py    from the kernel to the root file system
    root.py, files.py              that file system, made once and kept
    init.py                        PID 1 in the guest; then plugins/_shared/guest takes over
    command.py, confinement.py     QEMU's command line, and what keeps QEMU in
    machine.py, starter.py, machines.py, monitor.py    one QEMU; starting them; the snapshot
    acceleration.py, probe.py      what this machine offers, found out by trying
    backend.py                     the SandboxBackend
"""

from appliance.spi.registry import PluginContext, Registry
from appliance.spi.sandbox import SandboxBackend


def register(registry: Registry) -> None:
    """Offer the backend under the name "microvm"."""
    registry.add_sandbox("microvm", _create)


def _create(context: PluginContext) -> SandboxBackend:
    from plugins.sandboxes.microvm.backend import MicroVm

    return MicroVm(context)
