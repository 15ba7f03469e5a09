"""Finds the program runsc, its version, and the platforms worth trying."""

import os
import select
import stat
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable

_PATHS = ("/usr/bin/runsc", "/usr/local/bin/runsc")
_INSTALL = (
    "install the package runsc (Debian: apt-get install runsc; others: see gvisor.dev), "
    "or set sandbox.runsc to its path"
)
_MAX_OUTPUT_BYTES = 1 << 18
_VERSION_PREFIX = "runsc version "
# From best to slowest; kvm only if its device is accessible.
_PLATFORMS = ("systrap", "kvm", "ptrace")
_KVM = "/dev/kvm"


class Runsc(Struct, frozen=True):
    """`platforms` are those worth trying here, the best first."""

    program: Path
    version: str
    platforms: tuple[str, ...]


def locate_runsc(setting: str, env: Mapping[str, str], answer_s: float = 10.0) -> Runsc:
    """The program that the setting names, else the host's.

    It is executed twice with the environment `env`, for at most `answer_s` seconds each. Costs
    nothing if there is none. Raises SandboxUnavailable with the reason.
    """
    program = _find(setting)
    _check(program)
    version = _query(program, env, "--version", answer_s).partition("\n")[0]
    if not version.startswith(_VERSION_PREFIX):
        raise SandboxUnavailable.with_remedy(f"{program} is not runsc", _INSTALL)
    platforms = next(
        (
            line
            for line in _query(program, env, "flags", answer_s).splitlines()
            if "which platform" in line
        ),
        "",
    )
    return Runsc(program, version.removeprefix(_VERSION_PREFIX)[:60], _usable_platforms(platforms))


def _find(setting: str) -> Path:
    if setting and not Path(setting).is_absolute():
        raise SandboxUnavailable.with_remedy(
            f"sandbox.runsc: {setting!r} is not an absolute path", "set the absolute path of runsc"
        )
    for path in map(Path, [setting] if setting else _PATHS):
        if path.is_file():
            return path.resolve()
    missing = f"there is no program {setting}" if setting else "the program runsc is missing"
    raise SandboxUnavailable.with_remedy(missing, _INSTALL)


def _check(program: Path) -> None:
    info = program.stat()
    if not os.access(program, os.X_OK):
        raise SandboxUnavailable.with_remedy(
            f"{program} is not executable", f"run `chmod 755 {program}`"
        )
    if info.st_mode & (stat.S_ISUID | stat.S_ISGID):
        raise SandboxUnavailable.with_remedy(
            f"{program} has the setuid or setgid bit", f"run `chmod 755 {program}`"
        )
    if info.st_uid not in (0, os.geteuid()) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SandboxUnavailable.with_remedy(
            f"{program} can be modified by users other than root and the server's",
            f"run `chown root {program}` and `chmod 755 {program}`",
        )


def _usable_platforms(flag: str) -> tuple[str, ...]:
    kvm_usable = os.access(_KVM, os.R_OK | os.W_OK)
    return tuple(name for name in _PLATFORMS if name in flag and (name != "kvm" or kvm_usable)) or (
        "ptrace",
    )


def _query(program: Path, env: Mapping[str, str], argument: str, answer_s: float) -> str:
    """The start of its output; it is killed if it does not end in time."""
    try:
        process = subprocess.Popen(
            [program, argument],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxUnavailable.with_remedy(
            f"{program} can't be started ({error.strerror})", _INSTALL
        ) from error
    with process:
        try:
            fd = process.stdout.fileno() if process.stdout else -1
            return _read_output(fd, program, answer_s)
        finally:
            process.kill()


def _read_output(fd: int, program: Path, answer_s: float) -> str:
    deadline = time.monotonic() + answer_s
    output = b""
    while len(output) < _MAX_OUTPUT_BYTES:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0 or not select.select([fd], [], [], remaining_s)[0]:
            raise SandboxUnavailable.with_remedy(
                f"{program} does not answer within {answer_s:.0f} s", _INSTALL
            )
        data = os.read(fd, _MAX_OUTPUT_BYTES)
        if not data:
            break
        output += data
    return output.decode(errors="replace")
