"""PID 1 of a guest: what systemd gives to a service with `User=` and `Delegate=yes`.

Runs alone (`python -I -S`), as the guest's root. It mounts the control groups of version 2
with every controller, divides them as systemd does, starts a service in a group of its own
for an ordinary user and then for root. It writes to the serial port, as one JSON object, what
the services printed and what remained of them.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ORDINARY_USER = 64_998
CODE = "/opt/code"
EXTENT = "extent"
PYTHON = "/opt/python/bin/python3"
SERVICE = "tests.support.delegation_service"
_RUNTIME = "/run/monkey-coder"
_DETECT = """
import json
from plugins._shared.cgroups.controller import CgroupController
found = CgroupController()
print(json.dumps({"layers": found.layers, "degraded": found.degraded, "remedy": found.remedy}))
"""

_GROUPS = Path("/sys/fs/cgroup")
_SLICE = _GROUPS / "system.slice"
# systemd.resource-control(5), "Delegate=": the group's folder, and these files in it.
_DELEGATED_FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.threads")
_NOSUID, _NODEV, _NOEXEC, _REMOUNT = 2, 4, 8, 32
_SECURE = _NOSUID | _NODEV | _NOEXEC
_RESTART = 0x01234567
_POLL_S = 0.01

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    _mount_all()
    controllers = _divide()
    report: dict[str, Any] = {"kernel": os.uname().release, "controllers": controllers}
    extent = Path(CODE, EXTENT).read_text()
    report["ordinary"] = _serve("ordinary", ORDINARY_USER, ["-m", SERVICE, _RUNTIME, extent])
    if extent != "smoke":
        report["root"] = _serve("root", 0, ["-m", SERVICE, _RUNTIME, "some"])
        report["not_delegated"] = _serve("plain", ORDINARY_USER, ["-c", _DETECT], delegated=False)
    with _port().open("wb", buffering=0) as port:
        port.write(json.dumps(report).encode() + b"\n")
    time.sleep(1)  # until QEMU has forwarded it
    _libc.reboot(_RESTART)


def _mount_all() -> None:
    os.umask(0o022)
    _mount("proc", "/proc", "proc", _SECURE | _REMOUNT, "hidepid=0")  # as systemd leaves it
    _mount("sysfs", "/sys", "sysfs", _SECURE)
    _mount("cgroup2", str(_GROUPS), "cgroup2", _SECURE, "nsdelegate,memory_recursiveprot")
    for folder in ("/dev/pts", "/dev/shm"):
        Path(folder).mkdir()
    _mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "ptmxmode=0666,mode=620")
    for folder in ("/dev/shm", "/tmp"):
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "mode=1777")
    _mount("tmpfs", "/run", "tmpfs", _NOSUID | _NODEV, "mode=0755")


def _divide() -> list[str]:
    """Make the groups that systemd makes at its start; return the available controllers."""
    scope = _GROUPS / "init.scope"
    scope.mkdir()
    (scope / "cgroup.procs").write_text("0")
    _SLICE.mkdir()
    controllers = (_GROUPS / "cgroup.controllers").read_text().split()
    for group in (_GROUPS, _SLICE):
        enabled = " ".join(f"+{name}" for name in controllers)
        (group / "cgroup.subtree_control").write_text(enabled)
    return controllers


def _serve(name: str, user: int, arguments: list[str], *, delegated: bool = True) -> dict[str, Any]:
    """Run a service as that user; return what it printed and what remained of its group."""
    group = _SLICE / f"monkey-coder-{name}.service"
    group.mkdir()
    Path(_RUNTIME).mkdir(mode=0o700, exist_ok=True)
    os.chown(_RUNTIME, user, user)
    if delegated:
        for path in (group, *(group / file for file in _DELEGATED_FILES)):
            os.chown(path, user, user)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _exec_service(group, user, write, arguments)
    os.close(write)
    with os.fdopen(read, "rb") as output:
        printed = output.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {
        "exit_code": code,
        "printed": json.loads(printed) if code == 0 else None,
        "remaining": _remaining(group),
        "removed": _remove(group),
    }


def _exec_service(group: Path, user: int, output: int, arguments: list[str]) -> None:
    try:
        (group / "cgroup.procs").write_text("0")
        os.dup2(output, 1)
        os.setsid()
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.chdir("/")
        environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": CODE, "HOME": _RUNTIME}
        os.execve(PYTHON, [PYTHON, *arguments], environment)
    except OSError as error:
        sys.stderr.write(f"the service could not be started: {error}\n")
    finally:
        os._exit(127)


def _remaining(group: Path) -> dict[str, Any]:
    procs = [path.read_text() for path in group.rglob("cgroup.procs")]
    return {
        "groups": [str(path.relative_to(group)) for path in group.rglob("*") if path.is_dir()],
        "processes": "".join(procs).split(),
        "subtree_control": (group / "cgroup.subtree_control").read_text().split(),
    }


def _remove(group: Path) -> bool:
    """As systemd does when a service has ended."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True


def _port() -> Path:
    while not (ports := list(Path("/dev").glob("vport*"))):
        time.sleep(_POLL_S)
    return ports[0]


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


if __name__ == "__main__":
    main()
