"""PID 1 of a guest once it has a root file system: mounts what a run sees, waits, runs the agent.

Runs alone as the agent does (`python -I -S`, with the agent's files beside it), as the guest's
root. It sends READY on the serial port and waits there for the parameters of its run: one
marshalled dict after its length (4 bytes, big-endian). A snapshot of the machine is taken at that
point, so nothing before may depend on the run, and what must differ between runs is among the
parameters:

    seed                random bytes for the kernel's generator
    clock_ns            the time of day
    workspace_bytes, workspace_files, tmp_bytes
    memory_bytes, processes, cpus       for the control group of the run

Then the agent takes over the port, and the init process becomes a user without privileges.
"""

# As in the init process: pathlib is slow to load.
# What it unmarshals was written by the server itself.
# ruff: noqa: PTH102, PTH120, PTH123, PTH208, PTH211, S108, S302, S606
import fcntl
import marshal
import os
import struct
import sys
import time
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from plugins._shared import linux
else:  # in a guest, where its siblings lie beside it
    sys.path.append(os.path.dirname(__file__))
    linux = __import__("linux")

READY = b"+"
LENGTH_PREFIX = struct.Struct(">I")
USER = 1000
WORKSPACE = "/workspace"

_CGROUPS = "/sys/fs/cgroup"
_CONTROLLERS = ("memory", "pids", "cpu")
_RUN_CGROUP = _CGROUPS + "/run"
_PERIOD_US = 100_000
_MIN_QUOTA_US = 1000

_NOSUID_NODEV = linux.MS_NOSUID | linux.MS_NODEV
_NOSUID_NOEXEC = linux.MS_NOSUID | linux.MS_NOEXEC
_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
_CAPABILITIES = 64
_LINUX_REBOOT_CMD_RESTART = 0x01234567
_POLL_S = 0.01

_DEV_LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
}


def main() -> None:
    _prepare_system()
    agent = __import__("agent")
    for name in ("init", "collect", "workspace"):  # loaded before the snapshot, not in each run
        __import__(name)
    _warm_up()
    port = os.open(_find_port(), os.O_RDWR)
    os.write(port, READY)
    parameters = _read_parameters(port)
    _reseed(parameters)
    has_cgroup = _create_cgroup(parameters)
    _mount_writable_folders(parameters)
    agent.serve_run(port, os.dup(port), USER, lambda: _enter(agent, has_cgroup))
    _restart_machine()


def _prepare_system() -> None:
    os.umask(0o022)
    linux.mount("sysfs", "/sys", "sysfs", _NOSUID_NODEV | linux.MS_NOEXEC | linux.MS_RDONLY)
    for folder in ("/dev/pts", "/dev/shm"):
        os.mkdir(folder)
    options = "newinstance,ptmxmode=0666,mode=620"
    linux.mount("devpts", "/dev/pts", "devpts", _NOSUID_NOEXEC, options)
    for name, target in _DEV_LINKS.items():
        os.symlink(target, f"/dev/{name}")
    with open("/proc/sys/kernel/hostname", "w") as file:
        file.write("sandbox")
    _bring_up_loopback()


def _bring_up_loopback() -> None:
    # The module `socket` takes longer to import than this takes.
    family, datagram = 2, 2
    socket = __import__("_socket").socket(family, datagram)
    flags = struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING)
    fcntl.ioctl(socket.fileno(), _SIOCSIFFLAGS, flags)
    socket.close()


def _warm_up() -> None:
    """Start Python once, so that the snapshot holds its files in the page cache."""
    python = "/opt/python/bin/python3"
    pid = os.fork()
    if pid == 0:
        os.execv(python, [python, "-c", "import json, struct"])
    os.waitpid(pid, 0)


def _find_port() -> str:
    """The only serial port; it appears shortly after its driver is loaded."""
    while True:
        ports = [name for name in os.listdir("/dev") if name.startswith("vport")]
        if ports:
            return f"/dev/{ports[0]}"
        time.sleep(_POLL_S)


def _read_parameters(port: int) -> dict[str, Any]:
    (length,) = LENGTH_PREFIX.unpack(_read_exactly(port, LENGTH_PREFIX.size))
    return marshal.loads(_read_exactly(port, length))


def _read_exactly(port: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = os.read(port, count - len(data))
        if not piece:  # the server has closed the port
            _restart_machine()
        data += piece
    return data


def _reseed(parameters: dict[str, Any]) -> None:
    """Randomness and clock of this run: every run from one snapshot begins with the same."""
    seed: bytes = parameters["seed"]
    with open("/dev/urandom", "wb", buffering=0) as source:
        entropy = struct.pack("ii", len(seed) * 8, len(seed)) + seed
        fcntl.ioctl(source.fileno(), _RNDADDENTROPY, entropy)
        fcntl.ioctl(source.fileno(), _RNDRESEEDCRNG)
    time.clock_settime_ns(time.CLOCK_REALTIME, parameters["clock_ns"])


def _create_cgroup(parameters: dict[str, Any]) -> bool:
    """A control group for the run; False if this kernel has none."""
    try:
        linux.mount("cgroup2", _CGROUPS, "cgroup2", _NOSUID_NODEV | linux.MS_NOEXEC)
        _write(f"{_CGROUPS}/cgroup.subtree_control", " ".join(f"+{name}" for name in _CONTROLLERS))
    except OSError as error:
        sys.stdout.write(f"no control groups ({error})\n")  # on the console
        sys.stdout.flush()
        return False
    os.mkdir(_RUN_CGROUP)
    _write(f"{_RUN_CGROUP}/memory.max", parameters["memory_bytes"])
    _write(f"{_RUN_CGROUP}/memory.oom.group", 1)
    _write(f"{_RUN_CGROUP}/pids.max", parameters["processes"])
    quota = max(_MIN_QUOTA_US, int(parameters["cpus"] * _PERIOD_US))
    _write(f"{_RUN_CGROUP}/cpu.max", f"{quota} {_PERIOD_US}")
    return True


def _write(path: str, value: object) -> None:
    with open(path, "w") as file:
        file.write(str(value))


def _mount_writable_folders(parameters: dict[str, Any]) -> None:
    inodes = f"nr_inodes={parameters['workspace_files'] + 1}"  # the folder itself is one
    tmp = f"size={parameters['tmp_bytes']},{inodes},mode=1777"
    owner = f"mode=0755,uid={USER},gid={USER}"
    workspace = f"size={parameters['workspace_bytes']},{inodes},{owner}"
    linux.mount("tmpfs", "/tmp", "tmpfs", _NOSUID_NODEV, tmp)
    linux.mount("tmpfs", "/dev/shm", "tmpfs", _NOSUID_NODEV, tmp)
    linux.mount("tmpfs", WORKSPACE, "tmpfs", _NOSUID_NODEV, workspace)


def _enter(agent: Any, has_cgroup: bool) -> None:
    """In the init process: join the run's control group and drop all privileges."""
    if has_cgroup:
        _write(f"{_RUN_CGROUP}/cgroup.procs", os.getpid())
    for capability in range(_CAPABILITIES):
        try:
            linux.drop_bounding_capability(capability)
        except OSError:  # this kernel does not know it
            break
    agent.drop_privileges(USER)


def _restart_machine() -> None:
    linux.call("reboot", _LINUX_REBOOT_CMD_RESTART)


if __name__ == "__main__":
    main()
