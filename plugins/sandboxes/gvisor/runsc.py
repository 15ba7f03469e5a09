"""Finds the program runsc, and asks it what it is and what it can do."""

import os
import select
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from plugins._shared.stage.unavailable import unavailable

_PLACES = ("/usr/bin/runsc", "/usr/local/bin/runsc")
_INSTALL = (
    "install the package runsc (Debian: apt-get install runsc; others: see gvisor.dev), "
    "or name the program in the setting sandbox.runsc"
)
_ANSWER_BYTES = 1 << 18
_NAME = "runsc version "
# From the best to the slowest; kvm only where the device is there for us.
_PLATFORMS = ("systrap", "kvm", "ptrace")
_KVM = "/dev/kvm"


class Runsc(Struct, frozen=True):
    """`platforms` are those worth a try here, the best first."""

    program: Path
    version: str
    platforms: tuple[str, ...]


def locate(setting: str, env: Mapping[str, str], answer_s: float = 10.0) -> Runsc:
    """The one that the setting names, else the host's; started with `env` to ask it.

    Costs nothing where there is none. It is asked twice, for `answer_s` seconds at most.
    Raises SandboxUnavailable with the reason.
    """
    program = _find(setting)
    _check(program)
    version = _ask(program, env, "--version", answer_s).partition("\n")[0]
    if not version.startswith(_NAME):
        raise unavailable(f"{program} does not say that it is runsc", _INSTALL)
    known = next(
        (
            line
            for line in _ask(program, env, "flags", answer_s).splitlines()
            if "which platform" in line
        ),
        "",
    )
    return Runsc(program, version.removeprefix(_NAME)[:60], _worth_a_try(known))


def _find(setting: str) -> Path:
    if setting and not Path(setting).is_absolute():
        raise unavailable(
            f"the setting sandbox.runsc is {setting!r}", "name the program by its whole path"
        )
    for place in map(Path, [setting] if setting else _PLACES):
        if place.is_file():
            return place.resolve()
    missing = f"there is no program {setting}" if setting else "the program runsc is missing"
    raise unavailable(missing, _INSTALL)


def _check(program: Path) -> None:
    found = program.stat()
    if not os.access(program, os.X_OK):
        raise unavailable(f"{program} can't be executed", f"run `chmod 755 {program}`")
    if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise unavailable(
            f"{program} runs with another user's rights (setuid)", f"run `chmod 755 {program}`"
        )
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise unavailable(
            f"{program} can be changed by others than root and the service",
            f"run `chown root {program}` and `chmod 755 {program}`",
        )


def _worth_a_try(known: str) -> tuple[str, ...]:
    usable = os.access(_KVM, os.R_OK | os.W_OK)
    return tuple(name for name in _PLATFORMS if name in known and (name != "kvm" or usable)) or (
        "ptrace",
    )


def _ask(program: Path, env: Mapping[str, str], question: str, answer_s: float) -> str:
    """What it answers, as far as that is kept; it is killed if it does not end in time."""
    try:
        process = subprocess.Popen(
            [program, question],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise unavailable(f"{program} can't be started ({error.strerror})", _INSTALL) from error
    with process:
        try:
            fd = process.stdout.fileno() if process.stdout else -1
            return _answer(fd, program, answer_s)
        finally:
            process.kill()


def _answer(fd: int, program: Path, answer_s: float) -> str:
    deadline = time.monotonic() + answer_s
    answer = b""
    while len(answer) < _ANSWER_BYTES:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise unavailable(f"{program} gives no answer within {answer_s:.0f} s", _INSTALL)
        data = os.read(fd, _ANSWER_BYTES)
        if not data:
            break
        answer += data
    return answer.decode(errors="replace")
