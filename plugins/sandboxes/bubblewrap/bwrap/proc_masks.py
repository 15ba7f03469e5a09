"""What of /proc a run does not see: files that tell of the machine, and of others on it.

Each is covered by something empty, where this kernel has it. What language runtimes read stays
(meminfo, cpuinfo, stat, loadavg, uptime, version, filesystems, cgroups, all of sys), and so does
what only the machine's root may read, since a run is nobody's root.
"""

# Each run waits for this; pathlib would take longer than the kernel.
# ruff: noqa: PTH116, PTH208
import os
import stat

_FILES = (
    # How the machine was started, at times with passwords
    "bootconfig", "cmdline",
    # Its kernel: addresses, options, what is loaded
    "config.gz", "kallsyms", "modules",
    # Its processes by name, on kernels before 5.13
    "latency_stats", "sched_debug",
    # Its devices, and how busy they are
    "diskstats", "interrupts", "partitions",
)  # fmt: skip
# Its devices; and in fs the servers and folders that it mounts and shares.
_FOLDERS = ("asound", "bus", "driver", "fs", "scsi")


def words() -> list[str]:
    """Options of bwrap, for after its --proc. Looked up each time: modules come and go."""
    words: list[str] = []
    for path in (f"/proc/{name}" for name in _FILES):
        if _readable(path):
            words += ["--dev-bind", "/dev/null", path]
    for path in (f"/proc/{name}" for name in _FOLDERS):
        if _filled(path):
            words += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return words


def _readable(path: str) -> bool:
    """Whether it is there, and for everybody to read."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _filled(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False
