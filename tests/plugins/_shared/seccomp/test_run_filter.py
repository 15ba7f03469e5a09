"""The system-call filter of runs, interpreted here, so that all architectures are tested."""

import errno
import resource
import struct

import pytest

from plugins._shared.seccomp import numbers, run_filter
from plugins._shared.seccomp.argument_rules import build_argument_rules
from plugins._shared.seccomp.bpf import AUDIT_ARCH

ALLOW = 0x7FFF0000
KILL = 0x80000000
REFUSED = 0x00050000 | errno.EPERM
UNKNOWN = 0x00050000 | errno.ENOSYS
NO_SUCH_REQUEST = 0x00050000 | errno.ENOTTY
IGNORED = 0x00050000

MACHINES = ["x86_64", "aarch64"]


def call(machine: str, name: str) -> int:
    return numbers.syscall_numbers([name], machine)[name]


def verdict(
    machine: str, number: int, *arguments: int, arch: int | None = None, counted: bool = True
) -> int:
    """What the filter returns for a call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    arch = AUDIT_ARCH[machine] if arch is None else arch
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    lines = list(
        struct.iter_unpack("=HBBI", run_filter.build_run_filter(machine, memory_counted=counted))
    )
    accumulator = position = 0
    while True:
        code, when_true, when_false, operand = lines[position]
        position += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, operand)
            case 0x54:
                accumulator &= operand
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
    denied = numbers.syscall_numbers(run_filter.DENIED, machine).values()
    ignored = numbers.syscall_numbers(run_filter.IGNORED, machine).values()
    all_numbers = [*range(numbers.HIGHEST_OF_ARCHITECTURE[machine] + 1)]
    all_numbers += range(numbers.FIRST_COMMON, numbers.HIGHEST + 1)
    special = {call(machine, name) for name in ("clone3", "ioctl", "socket", "socketpair")}
    for number in {*all_numbers} - special:
        expected = IGNORED if number in ignored else ALLOW
        expected = REFUSED if number in denied else expected
        assert verdict(machine, number) == expected, number


@pytest.mark.parametrize("machine", MACHINES)
def test_memory_files_when_nothing_counts_them_then_refused(machine: str):
    memfd_create = call(machine, "memfd_create")

    assert verdict(machine, memfd_create, counted=True) == ALLOW
    assert verdict(machine, memfd_create, counted=False) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
def test_each_call_has_one_number_and_one_rule(machine: str):
    table = list(numbers.syscall_numbers(numbers.NUMBERS, machine).values())
    names = [*run_filter.DENIED, *run_filter.IGNORED]
    names += build_argument_rules(memory_counted=True)

    assert len(table) == len(set(table))
    assert max(table) <= numbers.HIGHEST
    assert len(names) == len(set(names))


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_newer_than_the_table_do_not_exist(machine: str):
    assert verdict(machine, numbers.HIGHEST + 1) == UNKNOWN
    assert verdict(machine, 0x3FFFFFFF) == UNKNOWN
    assert verdict(machine, call(machine, "clone3")) == UNKNOWN


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_in_the_gap_of_the_table_do_not_exist(machine: str):
    for number in (numbers.HIGHEST_OF_ARCHITECTURE[machine] + 1, 400, numbers.FIRST_COMMON - 1):
        assert verdict(machine, number) == UNKNOWN
    assert verdict(machine, numbers.HIGHEST_OF_ARCHITECTURE["aarch64"]) != UNKNOWN
    assert verdict(machine, numbers.FIRST_COMMON) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_foreign_architectures_are_killed(machine: str):
    for arch in (0x40000003, 0x40000028, 0):  # i386, arm, none
        assert verdict(machine, 1, arch=arch) == KILL


def test_x32_calls_are_killed():
    assert verdict("x86_64", 0x40000000) == KILL
    assert verdict("x86_64", 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_threads_and_processes_but_no_namespaces(machine: str):
    clone = call(machine, "clone")
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
        ((2, 1 | 0x80800, 6), ALLOW),
        ((10, 2 | 0x800, 0), ALLOW),
        ((2, 5, 0), REFUSED),  # of SCTP
        ((10, 6, 0), REFUSED),  # of DCCP
        ((2, 3, 0), REFUSED),
        ((1, 5, 0), ALLOW),
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
    assert verdict(machine, call(machine, "socket"), *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_terminals_can_not_be_typed_into(machine: str):
    ioctl = call(machine, "ioctl")

    assert verdict(machine, ioctl, 0, 0x5412) == REFUSED
    assert verdict(machine, ioctl, 0, 0xFFFFFFFF00005412) == REFUSED
    assert verdict(machine, ioctl, 0, 0x541C) == REFUSED
    assert verdict(machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (0x5401, ALLOW),  # TCGETS
        (0x541B, ALLOW),  # FIONREAD
        (0x5451, ALLOW),  # FIOCLEX
        (0x80045430, ALLOW),  # TIOCGPTN
        (0x8912, ALLOW),  # SIOCGIFCONF
        (0x8946, ALLOW),  # SIOCETHTOOL
        (0x8940, NO_SUCH_REQUEST),  # SIOCGIFBR
        (0x8982, NO_SUCH_REQUEST),  # SIOCGIFVLAN
        (0x89A0, NO_SUCH_REQUEST),  # SIOCBRADDBR
        (0x80111500, NO_SUCH_REQUEST),  # FS_IOC_GETFSUUID
        (0xC020660B, NO_SUCH_REQUEST),  # FS_IOC_FIEMAP
        (0x40049409, NO_SUCH_REQUEST),  # FICLONE
        (0xB703, NO_SUCH_REQUEST),  # NS_GET_NSTYPE
        (0, NO_SUCH_REQUEST),
        (0xFFFFFFFF, NO_SUCH_REQUEST),
    ],
)
def test_requests_to_files_are_those_of_terminals_and_interfaces(
    machine: str, request_: int, expected: int
):
    assert verdict(machine, call(machine, "ioctl"), 0, request_) == expected


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("fcntl", (0, 3), ALLOW),
        ("fcntl", (0, 1024, 1), REFUSED),
        ("fcntl", (0, 1026, 0x80000001), REFUSED),
        ("fcntl", (0, 1030), ALLOW),
        ("inotify_add_watch", (0, 0, 0x2 | 0x100 | 0x200), ALLOW),
        ("inotify_add_watch", (0, 0, 0xFFF), REFUSED),
        ("inotify_add_watch", (0, 0, 0x20), REFUSED),
        ("mmap", (0, 4096, 3, 0x22, -1 % 2**64, 0), ALLOW),
        ("mmap", (0, 4096, 3, 0x40022, -1 % 2**64, 0), REFUSED),
        ("memfd_create", (0, 1), ALLOW),
        ("memfd_create", (0, 5), REFUSED),
        ("madvise", (0, 0, 4), ALLOW),
        ("madvise", (0, 0, 12), REFUSED),
        ("msync", (0, 0, 1), ALLOW),
        ("msync", (0, 0, 4), IGNORED),
        ("fadvise64", (0, 0, 0, 3), ALLOW),
        ("fadvise64", (0, 0, 0, 4), IGNORED),
        ("setsockopt", (0, 6, 1), ALLOW),
        ("setsockopt", (0, 6, 31), REFUSED),
        ("setsockopt", (0, 1, 31), ALLOW),
        ("setsockopt", (0, 17, 100), REFUSED),
        ("sendto", (0, 0, 0, 0x4000), ALLOW),
        ("sendto", (0, 0, 0, 0x4001), REFUSED),
        ("sendmsg", (0, 0, 1), REFUSED),
        ("sendmmsg", (0, 0, 0, 1), REFUSED),
        ("sendmmsg", (0, 0, 1, 0), ALLOW),
        ("prctl", (22, 2), ALLOW),
        ("prctl", (62, 1), REFUSED),
    ],
)
def test_calls_are_judged_by_their_arguments(
    machine: str, name: str, arguments: tuple[int, ...], expected: int
):
    assert verdict(machine, call(machine, name), *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_personality_can_be_asked_but_not_changed(machine: str):
    personality = call(machine, "personality")

    assert verdict(machine, personality, 0xFFFFFFFF) == ALLOW
    assert verdict(machine, personality, 0x0040000) == REFUSED


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("address", [0x7FFF12345678, 0x1000, 0x100000000, 0xFFFFFFFF00000000])
def test_limit_on_core_dumps_can_be_asked_but_not_changed(machine: str, address: int):
    setrlimit, prlimit = call(machine, "setrlimit"), call(machine, "prlimit64")
    core, files = resource.RLIMIT_CORE, resource.RLIMIT_NOFILE

    assert verdict(machine, setrlimit, core, address) == IGNORED
    assert verdict(machine, setrlimit, core | 1 << 32, address) == IGNORED
    assert verdict(machine, setrlimit, files, address) == ALLOW
    assert verdict(machine, prlimit, 0, core, address, 0) == IGNORED
    assert verdict(machine, prlimit, 0, core, 0, address) == ALLOW
    assert verdict(machine, prlimit, 0, files, address, 0) == ALLOW
