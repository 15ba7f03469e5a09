"""PID 1 of a guest once it has a root file system: makes the place, waits, plays one run.

Runs alone as the agent does (`python -I -S`, the agent's files beside it), as the guest's
root. It mounts what a run sees, says READY on the serial port, and waits there for its
orders: one marshalled dict behind its length (4 bytes, big-endian). A snapshot of the
machine is taken at that point, so nothing before may depend on the run, and what has to
differ between runs comes with the orders:

    seed                random bytes for the kernel's generator
    clock_ns            the time of day
    workspace_bytes, workspace_files, tmp_bytes
    memory_bytes, processes, cpus       for the control group of the run

Then the agent takes over the port, and the stage becomes a user without any privilege.
"""

# As in the stage: pathlib is slow to load.
# What it unmarshals was written by the service itself.
# ruff: noqa: PTH102, PTH120, PTH123, PTH208, PTH211, S108, S302, S606
import ctypes
import fcntl
import marshal
import os
import struct
import sys
import time
from typing import Any

READY = b"+"
LENGTH = struct.Struct(">I")
USER = 1000
WORKSPACE = "/workspace"

_GROUPS = "/sys/fs/cgroup"
_CONTROLLERS = ("memory", "pids", "cpu")
_RUN = _GROUPS + "/run"
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_SECURE = _NOSUID | _NODEV | _NOEXEC
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_CAPABILITIES = 64
_RESTART = 0x01234567
_POLL_S = 0.01

_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    _prepare()
    sys.path.append(os.path.dirname(__file__))
    agent = __import__("agent")
    for name in ("stage", "collect"):  # loaded before the snapshot, not in each run
        __import__(name)
    _warm_up()
    port = os.open(_port(), os.O_RDWR)
    os.write(port, READY)
    orders = _orders(port)
    _renew(orders)
    grouped = _make_group(orders)
    _mount_room(orders)
    agent.serve(port, os.dup(port), lambda: _enter(agent, grouped))
    _libc.reboot(_RESTART)


def _prepare() -> None:
    os.umask(0o022)
    _mount("sysfs", "/sys", "sysfs", _SECURE | _RDONLY)
    for folder in ("/dev/pts", "/dev/shm"):
        os.mkdir(folder)
    _mount("devpts", "/dev/pts", "devpts", _NOSUID | _NOEXEC, "newinstance,ptmxmode=0666,mode=620")
    for name, target in _LINKS.items():
        os.symlink(target, f"/dev/{name}")
    with open("/proc/sys/kernel/hostname", "w") as file:
        file.write("sandbox")
    _raise_loopback()


def _raise_loopback() -> None:
    # The module `socket` takes longer to import than it takes to do this.
    family, datagram = 2, 2
    socket = __import__("_socket").socket(family, datagram)
    flags = struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING)
    fcntl.ioctl(socket.fileno(), _SIOCSIFFLAGS, flags)
    socket.close()


def _warm_up() -> None:
    """Start Python once, so that its files are in the memory that the snapshot holds."""
    python = "/opt/python/bin/python3"
    pid = os.fork()
    if pid == 0:
        os.execv(python, [python, "-c", "import json, struct"])
    os.waitpid(pid, 0)


def _port() -> str:
    """The only serial port; it appears a moment after its driver is loaded."""
    while True:
        found = [name for name in os.listdir("/dev") if name.startswith("vport")]
        if found:
            return f"/dev/{found[0]}"
        time.sleep(_POLL_S)


def _orders(port: int) -> dict[str, Any]:
    (length,) = LENGTH.unpack(_read(port, LENGTH.size))
    return marshal.loads(_read(port, length))


def _read(port: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(port, count - len(data))
        if not piece:  # the service has gone
            _libc.reboot(_RESTART)
        data += piece
    return data


def _renew(orders: dict[str, Any]) -> None:
    """Randomness and clock of this run's own: those of the snapshot are everybody's."""
    seed: bytes = orders["seed"]
    with open("/dev/urandom", "wb", buffering=0) as source:
        entropy = struct.pack("ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(source.fileno(), _RNDADDENTROPY, entropy)
        fcntl.ioctl(source.fileno(), _RNDRESEEDCRNG)
    time.clock_settime_ns(time.CLOCK_REALTIME, orders["clock_ns"])


def _make_group(orders: dict[str, Any]) -> bool:
    """A control group for the run; False where this kernel has none."""
    try:
        _mount("cgroup2", _GROUPS, "cgroup2", _SECURE)
        _write(f"{_GROUPS}/cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError as error:
        sys.stdout.write(f"no control groups ({error})\n")  # on the console
        sys.stdout.flush()
        return False
    os.mkdir(_RUN)
    _write(f"{_RUN}/memory.max", orders["memory_bytes"])
    _write(f"{_RUN}/memory.oom.group", 1)
    _write(f"{_RUN}/pids.max", orders["processes"])
    quota = max(_LEAST_QUOTA_US, int(orders["cpus"] * _PERIOD_US))
    _write(f"{_RUN}/cpu.max", f"{quota} {_PERIOD_US}")
    return True


def _write(path: str, value: object) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def _mount_room(orders: dict[str, Any]) -> None:
    files = orders["workspace_files"] + 1  # the folder itself is one
    tmp = f"size={orders['tmp_bytes']},nr_inodes={files},mode=1777"
    room = f"size={orders['workspace_bytes']},nr_inodes={files},mode=0755,uid={USER},gid={USER}"
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, tmp)
    _mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID | _NODEV, tmp)
    _mount("tmpfs", WORKSPACE, "tmpfs", _NOSUID | _NODEV, room)


def _enter(agent: Any, grouped: bool) -> None:
    """In the stage's process: into the group, and no privilege any more."""
    if grouped:
        _write(f"{_RUN}/cgroup.procs", os.getpid())
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    agent.become(USER)
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode())
    if _libc.mount(*words, ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


if __name__ == "__main__":
    main()
