"""Measures the memory of all processes of a run where no control group limits it.

The init process loads this module only there. The files of /proc describe hostile programs,
which may hide theirs: then the most that they can hold is counted.
"""

# As in the init process: pathlib is slow to load.
# ruff: noqa: PTH123
import os

_SOCKET_BYTES = 208 << 10  # default receive buffer of one socket (net.core.rmem_default)
_QUEUES = ("tcp", "tcp6", "udp", "udp6")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def exceeds_limit(stats: dict[str, list[bytes]], limit: int) -> bool:
    """Whether the processes and sockets of the run use more than `limit` bytes.

    `stats` holds, by process id, the fields of /proc/PID/stat from the third on; [] if the
    process is gone.
    """
    if _socket_count() * _SOCKET_BYTES > limit or _queued_bytes(limit) > limit:
        return True
    resident = sum(_resident_bytes(fields) + _table_bytes(pid) for pid, fields in stats.items())
    # RSS counts shared pages once per process; the exact sum costs more, so it comes second.
    return (
        resident > limit
        and sum(_private_bytes(pid, fields) for pid, fields in stats.items()) > limit
    )


def _socket_count() -> int:
    """Open sockets of the run, including those in flight inside other sockets."""
    lines = [line.split() for line in _lines("net/sockstat")[:1]]
    return int(lines[0][2]) if lines else 0


def _queued_bytes(limit: int) -> int:
    """Unread bytes in the run's sockets; 0 while those of the whole machine hold less.

    Reading the queue of each socket costs milliseconds.
    """
    pages = sum(int(line.split()[-1]) for line in _lines("net/sockstat") if b" mem " in line)
    if pages * _PAGE <= limit:
        return 0
    queues = [line.split(None, 5)[4] for name in _QUEUES for line in _lines(f"net/{name}")[1:]]
    return sum(int(size, 16) for queue in queues for size in queue.split(b":"))


def _resident_bytes(stat: list[bytes]) -> int:
    return int(stat[21]) * _PAGE if stat else 0


def _table_bytes(pid: str) -> int:
    """Page tables, which can take more memory than the pages they map."""
    sizes = [line.split()[1] for line in _lines(f"{pid}/status") if line.startswith(b"VmPTE:")]
    return int(sizes[0]) << 10 if sizes else 0


def _private_bytes(pid: str, stat: list[bytes]) -> int:
    """A process's share of anonymous and shared memory, and its page tables.

    All resident memory of a process that hides its share (see PR_SET_DUMPABLE in prctl(2)).
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = dict(line.split(None, 1) for line in file.readlines()[1:])
    except PermissionError:
        return _resident_bytes(stat) + _table_bytes(pid)
    except (OSError, ValueError):
        return 0
    kib = sum(int(lines.get(name, b"0").split()[0]) for name in (b"Pss_Anon:", b"Pss_Shmem:"))
    return (kib << 10) + _table_bytes(pid)


def _lines(name: str) -> list[bytes]:
    """The lines of a file of /proc; [] if it does not exist."""
    try:
        with open(f"/proc/{name}", "rb") as file:
            return file.readlines()
    except OSError:
        return []
