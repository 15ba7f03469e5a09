"""Counts the memory of a run as a whole where no control group does; a part of the stage.

Loaded by the stage (see stage.py) where it is needed. What it reads of /proc are the files of
hostile programs, which may hide theirs: then all that they could have is taken for theirs.
"""

# As in the stage: pathlib is slow to load.
# ruff: noqa: PTH123
import os

_SOCKET_BYTES = 208 << 10  # what the kernel keeps for each that nobody reads, as it is set usually
_QUEUES = ("tcp", "tcp6", "udp", "udp6")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def over(stats: dict[str, list[bytes]], limit: int) -> bool:
    """Whether more than `limit` bytes are in use by the processes and sockets of the run.

    `stats` holds, for each process by its number, the fields of /proc/PID/stat from the third
    on; none if it is gone.
    """
    if _sockets() * _SOCKET_BYTES > limit or _unread(limit) > limit:
        return True
    resident = sum(_resident(fields) + _tables(pid) for pid, fields in stats.items())
    # Each file that many share counts for each of them so far: only then a closer look.
    return resident > limit and sum(_own(pid, fields) for pid, fields in stats.items()) > limit


def _sockets() -> int:
    """How many the run has open, those that wait in others included."""
    lines = [line.split() for line in _lines("net/sockstat")[:1]]
    return int(lines[0][2]) if lines else 0


def _unread(limit: int) -> int:
    """Bytes that wait in the run's own sockets; 0 while those of the whole machine hold less.

    To look at each costs milliseconds.
    """
    pages = sum(int(line.split()[-1]) for line in _lines("net/sockstat") if b" mem " in line)
    if pages * _PAGE <= limit:
        return 0
    queues = [line.split(None, 5)[4] for name in _QUEUES for line in _lines(f"net/{name}")[1:]]
    return sum(int(size, 16) for queue in queues for size in queue.split(b":"))


def _resident(stat: list[bytes]) -> int:
    return int(stat[21]) * _PAGE if stat else 0


def _tables(pid: str) -> int:
    """What the kernel keeps to find a process's memory, which can be more than that is."""
    found = [line.split()[1] for line in _lines(f"{pid}/status") if line.startswith(b"VmPTE:")]
    return int(found[0]) << 10 if found else 0


def _own(pid: str, stat: list[bytes]) -> int:
    """A process's share of the memory that has no file behind it, in bytes, and its tables.

    Of one that hides it (see PR_SET_DUMPABLE in prctl(2)) all that it has.
    """
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            lines = dict(line.split(None, 1) for line in file.readlines()[1:])
    except PermissionError:
        return _resident(stat) + _tables(pid)
    except (OSError, ValueError):
        return 0
    kib = sum(int(lines.get(name, b"0").split()[0]) for name in (b"Pss_Anon:", b"Pss_Shmem:"))
    return (kib << 10) + _tables(pid)


def _lines(name: str) -> list[bytes]:
    """Of a file of /proc; [] if it is not there."""
    try:
        with open(f"/proc/{name}", "rb") as file:
            return file.readlines()
    except OSError:
        return []
