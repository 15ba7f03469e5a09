"""Starts runsc and owns it: one small process per run, on the host.

Runs alone under the bundled Python (`python -I -S`, with linux.pyc beside it), or as a child of
the product. It puts runsc and everything that runsc starts into a PID namespace, so that the
kernel kills all of it with its first process; dies with the server and takes runsc along; and
watches the guest's memory where no control group limits it.

Arguments: the server's process id (0: it is not the parent), a descriptor from which a byte can be
read once this process is in its control group, the memory limit of the guest in bytes (0: a
control group enforces it), any number of tmpfs to mount first (options, colon, folder), "--", the
command. The command alone uses descriptors 0 and 1. SIGTERM ends it. The exit status is the
command's (128 + the number of the signal that killed it), OUT_OF_MEMORY if the guest exceeded its
memory, or FAILED with a line on descriptor 2 if it could not be started.
"""

# pathlib and signal are slow to load.
# ruff: noqa: PTH115, PTH116, PTH120, PTH123, PTH208, S606
import os
import select
import sys
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from plugins._shared import linux
else:  # alone, with its sibling beside it
    sys.path.append(os.path.dirname(__file__))
    linux = __import__("linux")

OUT_OF_MEMORY = 97
FAILED = 98
# What gVisor may take beside the program: its kernel, its file server, this launcher.
OVERHEAD_BYTES = 96 << 20

_TICK_S = 0.05
_BLOCK = 512
_SIGKILL, _SIGTERM = 9, 15
_CLONE_NEWIPC, _CLONE_NEWNET = 0x08000000, 0x40000000
_NAMESPACES = linux.CLONE_NEWPID | linux.CLONE_NEWNS | _CLONE_NEWIPC | _CLONE_NEWNET
_NOSUID_NODEV = linux.MS_NOSUID | linux.MS_NODEV
_HIGHEST_OOM_SCORE = "1000"
_GUEST_MEMORY = "/memfd:runsc-memory"


def main(arguments: list[str]) -> int:
    parent, start_fd, memory, *rest = arguments
    mounts, command = rest[: rest.index("--")], rest[rest.index("--") + 1 :]
    try:
        _die_with(int(parent))
        _wait_for_start(int(start_fd))
        _unshare_namespaces()
        folders = [_mount_tmpfs(*mount.split(":", 1)) for mount in mounts]
        child = _start(command)
    except OSError as error:
        os.write(2, f"launch: {error.filename or 'failed'}: {error.strerror}\n".encode())
        return FAILED
    return _supervise(child, int(memory), folders)


def _die_with(parent: int) -> None:
    linux.set_parent_death_signal()
    if parent and os.getppid() != parent:
        raise OSError(0, "the server has ended")


def _wait_for_start(fd: int) -> None:
    if not os.read(fd, 1):
        raise OSError(0, "the server cancelled the start")
    os.close(fd)


def _unshare_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        linux.unshare(_NAMESPACES)
    else:
        linux.unshare(_NAMESPACES | linux.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{user} {user} 1")
        _write("/proc/self/gid_map", f"{group} {group} 1")
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SLAVE)


def _mount_tmpfs(options: str, folder: str) -> str:
    linux.mount("tmpfs", folder, "tmpfs", _NOSUID_NODEV, options)
    return folder


def _start(command: list[str]) -> int:
    """Start the command as PID 1 of the new namespace; from here on SIGTERM kills it."""
    children: list[int] = []
    signals: Any = __import__("_signal")

    def kill_children(*_: Any) -> None:
        for pid in children:
            os.kill(pid, _SIGKILL)

    signals.signal(_SIGTERM, kill_children)
    exec_read, exec_write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _exec(command)
        except OSError as error:
            os.write(2, f"launch: {error.filename or command[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(FAILED)
    children.append(child)
    os.close(exec_write)
    os.read(exec_read, 1)  # until exec closes it: /proc is the namespace's from here on
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1):
        os.dup2(null, fd)
    return child


def _exec(command: list[str]) -> None:
    linux.set_parent_death_signal()
    linux.mount("proc", "/proc", "proc", _NOSUID_NODEV | linux.MS_NOEXEC)
    _prefer_for_oom_kill()
    os.execve(command[0], command, {"PATH": "/usr/bin:/bin"})


def _prefer_for_oom_kill() -> None:
    """When memory runs out, the kernel should kill a run and not the server."""
    try:
        _write("/proc/self/oom_score_adj", _HIGHEST_OOM_SCORE)
    except OSError:  # a precaution only
        return


def _supervise(child: int, memory: int, folders: list[str]) -> int:
    """Wait for the child, watching the guest's memory unless `memory` is 0; the exit status."""
    pidfd = os.pidfd_open(child)
    out_of_memory, sandbox = False, None
    while True:
        ended, _, _ = select.select([pidfd], [], [], _TICK_S if memory else None)
        if ended:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            return OUT_OF_MEMORY if out_of_memory else code if code >= 0 else 128 - code
        sandbox = sandbox or _find_sandbox()
        if sandbox and not out_of_memory and _exceeds_memory(sandbox, memory, folders):
            out_of_memory = True
            os.kill(child, _SIGKILL)


def _find_sandbox() -> tuple[str, str] | None:
    """gVisor's kernel: its folder in /proc, and the file there that is the guest's memory."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        folder = f"/proc/{pid}"
        try:
            for fd in os.listdir(f"{folder}/fd"):
                if os.readlink(f"{folder}/fd/{fd}").startswith(_GUEST_MEMORY):
                    return folder, f"{folder}/fd/{fd}"
        except OSError:  # it has ended, or executes another program just now
            continue
    return None


def _exceeds_memory(sandbox: tuple[str, str], memory: int, folders: list[str]) -> bool:
    """Whether the guest's memory and files, or its kernel's own memory, exceed their limit."""
    folder, guest_memory = sandbox
    try:
        with open(f"{folder}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file)
        kernel_bytes = int(fields[b"RssAnon"].split()[0]) << 10
        guest_bytes = os.stat(guest_memory).st_blocks * _BLOCK + sum(map(_used_bytes, folders))
        return guest_bytes > memory or kernel_bytes > OVERHEAD_BYTES
    except (OSError, KeyError):  # it has ended
        return False


def _used_bytes(folder: str) -> int:
    info = os.statvfs(folder)
    return (info.f_blocks - info.f_bfree) * info.f_frsize


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
