"""Starts runsc and owns it: one small process per run, on the host.

Runs alone under the box's own Python (`python -I -S`). It puts runsc and everything that
runsc starts into a process namespace of its own, so that the kernel ends all of it with
its first process; dies with the service, and takes runsc along; and where no control group
counts the memory of the guest it watches it here.

Arguments: the service's process id (0: it is not the parent), a descriptor that has a byte
to read once this process is in its control group, the most bytes of memory for the guest
(0: a control group counts them), any number of tmpfs to be mounted first (their options, a
colon, the folder), "--", and the command. Descriptors 0 and 1 are for the command
alone. SIGTERM ends it. It exits as the command did (128 + the signal's number, where that
was its end), with STARVED if it ended the guest for want of memory, or with FAILED and a
line on descriptor 2 if it could not start it.
"""

# pathlib and signal are slow to load.
# ruff: noqa: PTH115, PTH116, PTH123, PTH208, S606
import ctypes
import os
import select
import sys
from typing import Any

STARVED = 97
FAILED = 98
# What gVisor may take beside the program: its kernel, its file server, this launcher.
OWN_MEMORY = 96 << 20

_TICK_S = 0.05
_BLOCK = 512
_SIGKILL, _SIGTERM = 9, 15
_PR_SET_PDEATHSIG = 1
_NEWNS, _NEWIPC, _NEWUSER = 0x00020000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REC, _MS_SLAVE = 2, 4, 8, 0x4000, 1 << 19
_FIRST_TO_DIE = "1000"
_GUEST_MEMORY = "/memfd:runsc-memory"


def main(arguments: list[str]) -> int:
    parent, gate, memory, *words = arguments
    rooms, command = words[: words.index("--")], words[words.index("--") + 1 :]
    try:
        _die_with(int(parent))
        _wait_at(int(gate))
        _set_apart()
        places = [_make_room(*room.split(":", 1)) for room in rooms]
        child = _start(command)
    except OSError as error:
        os.write(2, f"launch: {error.filename or 'failed'}: {error.strerror}\n".encode())
        return FAILED
    return _see_through(child, int(memory), places)


def _die_with(parent: int) -> None:
    _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if parent and os.getppid() != parent:
        raise OSError(0, "the service is gone already")


def _wait_at(gate: int) -> None:
    if not os.read(gate, 1):
        raise OSError(0, "the service gave it up")
    os.close(gate)


def _set_apart() -> None:
    apart = _NEWPID | _NEWNS | _NEWIPC | _NEWNET
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        _call("unshare", apart)
    else:
        _call("unshare", apart | _NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SLAVE), None)


def _make_room(options: str, place: str) -> str:
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV)
    _call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", flags, options.encode())
    return place


def _start(command: list[str]) -> int:
    """The command as PID 1 of the new namespace; SIGTERM is its end from here on."""
    children: list[int] = []
    signals: Any = __import__("_signal")

    def end(*_: Any) -> None:
        for pid in children:
            os.kill(pid, _SIGKILL)

    signals.signal(_SIGTERM, end)
    gone_on, mark = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become(command)
        except OSError as error:
            os.write(2, f"launch: {error.filename or command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(FAILED)
    children.append(child)
    os.close(mark)
    os.read(gone_on, 1)  # to its end: the child is the command now, and /proc is the namespace's
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(nothing, fd)
    return child


def _become(command: list[str]) -> None:
    _call("prctl", _PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    flags = ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _call("mount", b"proc", b"/proc", b"proc", flags, None)
    _be_first_to_die()
    os.execve(command[0], command, {"PATH": "/usr/bin:/bin"})


def _be_first_to_die() -> None:
    """When memory runs out the kernel is to pick a run, and not the service."""
    try:
        _write("/proc/self/oom_score_adj", _FIRST_TO_DIE)
    except OSError:  # one precaution less, and no reason to fail
        return


def _see_through(child: int, memory: int, places: list[str]) -> int:
    handle = os.pidfd_open(child)
    starved, sandbox = False, None
    while True:
        ended, _, _ = select.select([handle], [], [], _TICK_S if memory else None)
        if ended:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            return STARVED if starved else code if code >= 0 else 128 - code
        sandbox = sandbox or _find_sandbox()
        if sandbox and not starved and _uses_more(sandbox, memory, places):
            starved = True
            os.kill(child, _SIGKILL)


def _find_sandbox() -> tuple[str, str] | None:
    """gVisor's kernel: its folder in /proc, and there the file that is the guest's memory."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{pid}"
        try:
            for fd in os.listdir(f"{folder}/fd"):
                if os.readlink(f"{folder}/fd/{fd}").startswith(_GUEST_MEMORY):
                    return folder, f"{folder}/fd/{fd}"
        except OSError:  # it ended, or is about to become another program
            continue
    return None


def _uses_more(sandbox: tuple[str, str], memory: int, places: list[str]) -> bool:
    """Whether the guest's memory, or what its kernel keeps for it, is more than it may be."""
    folder, guest_memory = sandbox
    try:
        with open(f"{folder}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file)
        own = int(fields[b"RssAnon"].split()[0]) << 10
        used = os.stat(guest_memory).st_blocks * _BLOCK + sum(map(_written, places))
        return used > memory or own > OWN_MEMORY
    except (OSError, KeyError):  # it has ended
        return False


def _written(place: str) -> int:
    """Bytes of memory that its files take."""
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
