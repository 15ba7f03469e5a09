"""Hides files of /proc that reveal the machine's hardware, kernel and other users.

Each file is covered by an empty one, if the kernel has it. Files that language runtimes read stay
visible (meminfo, cpuinfo, stat, loadavg, uptime, version, filesystems, cgroups, all of sys), and
so do files that only root can read, since a run is never root on the host.
"""

# In the path of every run, and pathlib is slow.
# ruff: noqa: PTH116, PTH208
import os
import stat

_FILES = (
    # Boot parameters, which may contain passwords
    "bootconfig", "cmdline",
    # The kernel: addresses, options, modules
    "config.gz", "kallsyms", "modules",
    # Names of all processes, on kernels before 5.13
    "latency_stats", "sched_debug",
    # Devices and their load
    "diskstats", "interrupts", "partitions",
)  # fmt: skip
# Devices; and in fs, mounted and exported network folders.
_FOLDERS = ("asound", "bus", "driver", "fs", "scsi")


def mask_options() -> list[str]:
    """Options of bwrap, to follow --proc. Not cached: modules are loaded and unloaded."""
    words: list[str] = []
    for path in (f"/proc/{name}" for name in _FILES):
        if _is_world_readable(path):
            words += ["--dev-bind", "/dev/null", path]
    for path in (f"/proc/{name}" for name in _FOLDERS):
        if _is_nonempty(path):
            words += ["--perms", "0555", "--size", "4096", "--tmpfs", path, "--remount-ro", path]
    return words


def _is_world_readable(path: str) -> bool:
    """Whether it exists and everybody may read it."""
    try:
        return bool(os.stat(path).st_mode & stat.S_IROTH)
    except OSError:
        return False


def _is_nonempty(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False
