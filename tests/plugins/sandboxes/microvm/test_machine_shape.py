"""A machine's command line, size and parameters."""

import marshal

import pytest

from appliance.domain.execution import Limits
from plugins.sandboxes.microvm import (
    guest_init,
    machine_factory,
    qemu_argv,
)
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape, QemuDescriptors

FDS = QemuDescriptors(kernel=10, initramfs=11, root=12, port=13)


def test_command_line_gives_a_machine_without_a_network():
    arguments = qemu_argv.qemu_arguments(Accelerator.KVM, MachineShape(384, 1), FDS)

    assert {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot"} <= set(arguments)
    assert not any("net" in word for word in arguments)
    assert arguments[arguments.index("-sandbox") + 1] == (
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )
    assert [word for word in arguments if word.startswith("virt")] == [
        "virtio-blk-device,drive=root",
        "virtio-serial-device,max_ports=2",
        "virtserialport,chardev=port,name=sandbox",
    ]
    assert all("read-only=on" in word for word in arguments if "driver=" in word)


@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_command_line_of_a_restored_machine_differs_in_its_state_only(accelerator: Accelerator):
    fresh = qemu_argv.qemu_arguments(accelerator, MachineShape(384, 1), FDS)
    restored = qemu_argv.qemu_arguments(
        accelerator, MachineShape(384, 1), QemuDescriptors(10, 11, 12, 13, state=14)
    )

    assert restored == [*fresh, "-incoming", "fd:14"]


def test_command_line_without_kvm_names_no_kvm():
    arguments = qemu_argv.qemu_arguments(Accelerator.EMULATION, MachineShape(384, 2), FDS)

    assert not any("kvm" in word for word in arguments)
    assert arguments[arguments.index("-smp") + 1] == "2"


@pytest.mark.parametrize(
    ("memory_mib", "cpus", "expected"),
    [
        (256, 1.0, MachineShape(448, 1)),
        (1, 0.25, MachineShape(256, 1)),
        (4096, 2.5, MachineShape(4288, 3)),
    ],
)
def test_machine_is_large_enough_for_its_run(memory_mib: int, cpus: float, expected: MachineShape):
    limits = Limits(memory_bytes=memory_mib << 20, cpus=cpus)

    assert machine_factory.machine_shape(limits) == expected


def test_larger_machine_holds_a_smaller_one_only():
    assert MachineShape(384, 2).can_hold(MachineShape(384, 1))
    assert not MachineShape(384, 1).can_hold(MachineShape(384, 2))
    assert not MachineShape(384, 2).can_hold(MachineShape(448, 1))


def test_run_parameters_differ_in_their_seed_and_carry_the_limits():
    limits = Limits(workspace_bytes=1000, workspace_files=17, tmp_bytes=2000, processes=5)
    encoded = [machine_factory.encode_run_parameters(limits) for _ in range(2)]

    first, second = (marshal.loads(each[guest_init.LENGTH_PREFIX.size :]) for each in encoded)

    assert (
        guest_init.LENGTH_PREFIX.unpack(encoded[0][: guest_init.LENGTH_PREFIX.size])[0]
        == len(encoded[0]) - guest_init.LENGTH_PREFIX.size
    )
    assert first["seed"] != second["seed"]
    assert len(first["seed"]) == 64
    assert (first["workspace_bytes"], first["workspace_files"]) == (1000, 17)
    assert first["processes"] == 6
