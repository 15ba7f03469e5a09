"""The system-call filter, run by a small BPF machine: so also for other architectures."""

import errno
import resource
import struct

import pytest

from plugins.sandboxes.bubblewrap import seccomp, syscalls
from plugins.syscall_filter import AUDIT_ARCH

ALLOW = 0x7FFF0000
KILL = 0x80000000
REFUSED = 0x00050000 | errno.EPERM
UNKNOWN = 0x00050000 | errno.ENOSYS
PASSED_OVER = 0x00050000

MACHINES = ["x86_64", "aarch64"]


def verdict(
    machine: str, number: int, *arguments: int, arch: int | None = None, counted: bool = True
) -> int:
    """What the filter returns for a call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    arch = AUDIT_ARCH[machine] if arch is None else arch
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    lines = list(struct.iter_unpack("=HBBI", seccomp.program(machine, memory_counted=counted)))
    accumulator = position = 0
    while True:
        code, when_true, when_false, operand = lines[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x06:
                return operand
            case 0x15 | 0x25 | 0x35 | 0x45:
                holds = {
                    0x15: accumulator == operand,
                    0x25: accumulator > operand,
                    0x35: accumulator >= operand,
                    0x45: bool(accumulator & operand),
                }[code]
                position += when_true if holds else when_false
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


@pytest.mark.parametrize("machine", MACHINES)
def test_every_call_gets_a_verdict_and_the_common_ones_pass(machine: str):
    refused = set(syscalls.denied(machine, memory_counted=True))
    special = {
        table[machine]
        for table in (
            syscalls.CLONE3,
            syscalls.SOCKET,
            syscalls.SOCKETPAIR,
        )
    }
    for number in range(syscalls.HIGHEST + 1):
        if number not in special:
            expected = REFUSED if number in refused else ALLOW
            assert verdict(machine, number) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_memory_files_when_nothing_counts_them_then_refused(machine: str):
    memfd_create = {"x86_64": 319, "aarch64": 279}[machine]

    assert verdict(machine, memfd_create, counted=True) == ALLOW
    assert verdict(machine, memfd_create, counted=False) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_denied_numbers_are_given_once(machine: str):
    numbers = syscalls.denied(machine, memory_counted=True)

    assert len(numbers) == len(set(numbers))
    assert max(numbers) <= syscalls.HIGHEST


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_newer_than_the_table_do_not_exist(machine: str):
    assert verdict(machine, syscalls.HIGHEST + 1) == UNKNOWN
    assert verdict(machine, 0x3FFFFFFF) == UNKNOWN
    assert verdict(machine, syscalls.CLONE3[machine]) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_foreign_architectures_are_killed(machine: str):
    for arch in (0x40000003, 0x40000028, 0):  # i386, arm, none
        assert verdict(machine, 1, arch=arch) == KILL


def test_x32_calls_are_killed():
    assert verdict("x86_64", 0x40000000) == KILL
    assert verdict("x86_64", 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_threads_and_processes_but_no_namespaces(machine: str):
    clone = syscalls.CLONE[machine]
    threads = 0x003D0F00  # what pthread_create passes

    assert verdict(machine, clone, threads) == ALLOW
    assert verdict(machine, clone, 0x01200011) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(machine, clone, threads | flag) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, 1, 0), ALLOW),
        ((2, 1, 6), ALLOW),
        ((2, 2, 17), ALLOW),
        ((10, 1, 0), ALLOW),
        ((16, 3, 0), ALLOW),
        ((16, 3, 12), REFUSED),
        ((2, 1, 132), REFUSED),
        ((2, 3, 255), REFUSED),
        ((17, 3, 0), REFUSED),
        ((38, 5, 0), REFUSED),
        ((40, 1, 0), REFUSED),
        ((0, 0, 0), REFUSED),
    ],
)
def test_sockets_are_limited_to_known_families(
    machine: str, arguments: tuple[int, ...], expected: int
):
    assert verdict(machine, syscalls.SOCKET[machine], *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_terminals_can_not_be_typed_into(machine: str):
    ioctl = syscalls.IOCTL[machine]

    assert verdict(machine, ioctl, 0, 0x5412) == REFUSED
    assert verdict(machine, ioctl, 0, 0xFFFFFFFF00005412) == REFUSED
    assert verdict(machine, ioctl, 0, 0x541C) == REFUSED
    assert verdict(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_personality_can_be_asked_but_not_changed(machine: str):
    personality = syscalls.PERSONALITY[machine]

    assert verdict(machine, personality, 0xFFFFFFFF) == ALLOW
    assert verdict(machine, personality, 0x0040000) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("address", [0x7FFF12345678, 0x1000, 0x100000000, 0xFFFFFFFF00000000])
def test_limit_on_core_dumps_can_be_asked_but_not_changed(machine: str, address: int):
    setrlimit, prlimit = syscalls.SETRLIMIT[machine], syscalls.PRLIMIT64[machine]
    core, files = resource.RLIMIT_CORE, resource.RLIMIT_NOFILE

    assert verdict(machine, setrlimit, core, address) == PASSED_OVER
    assert verdict(machine, setrlimit, core | 1 << 32, address) == PASSED_OVER
    assert verdict(machine, setrlimit, files, address) == ALLOW
    assert verdict(machine, prlimit, 0, core, address, 0) == PASSED_OVER
    assert verdict(machine, prlimit, 0, core, 0, address) == ALLOW
    assert verdict(machine, prlimit, 0, files, address, 0) == ALLOW
