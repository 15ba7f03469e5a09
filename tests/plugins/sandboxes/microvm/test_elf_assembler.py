"""The assembled program: system calls in order, and what one that fails does."""

import subprocess
from pathlib import Path

from plugins.sandboxes.microvm.elf_assembler import SystemCall, assemble_elf
from tests.support.microvm import only_x86_64

WRITE, EXIT, CHDIR = 1, 60, 80


def run(tmp_path: Path, calls: list[SystemCall]) -> "subprocess.CompletedProcess[bytes]":
    path = tmp_path / "program"
    path.write_bytes(assemble_elf(calls))
    path.chmod(0o755)
    return subprocess.run([path], capture_output=True, timeout=30, check=False)


@only_x86_64
def test_assembled_program_does_its_calls_in_order(tmp_path: Path):
    calls = [
        SystemCall(WRITE, (1, b"one ", 4)),
        SystemCall(WRITE, (1, b"two", 3)),
        SystemCall(EXIT, (7,)),
    ]

    done = run(tmp_path, calls)

    assert (done.stdout, done.returncode) == (b"one two", 7)


@only_x86_64
def test_assembled_program_whose_required_call_fails_ends_with_its_number(tmp_path: Path):
    calls = [
        SystemCall(CHDIR, (b"/",)),
        SystemCall(CHDIR, (b"/there/is/none",)),
        SystemCall(EXIT, (0,)),
    ]

    assert run(tmp_path, calls).returncode == 2


@only_x86_64
def test_assembled_program_whose_other_call_fails_goes_on(tmp_path: Path):
    calls = [SystemCall(CHDIR, (b"/there/is/none",), required=False), SystemCall(EXIT, (5,))]

    assert run(tmp_path, calls).returncode == 5


@only_x86_64
def test_assembled_program_hands_lists_of_words_to_the_next_one(tmp_path: Path):
    execve = 59
    argv = [b"sh", b"-c", b'echo "$0 $1 $A"', b"zero", b"one"]

    done = run(tmp_path, [SystemCall(execve, (b"/bin/sh", argv, [b"A=b"])), SystemCall(EXIT, (9,))])

    assert (done.stdout, done.returncode) == (b"zero one b\n", 0)
