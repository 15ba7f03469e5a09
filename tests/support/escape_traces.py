"""What a server and its runs have on the machine: processes, mounts, control groups, files."""

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.server_process import ServerProcess

_DEADLINE_S = 30.0
_QUIET_S = 1.0
_POLL_S = 0.05
# Ids that a service which is root gives to its runs lie far above those of people.
_FIRST_UID_OF_RUNS = 2_000_000_000
# Where the tests' own servers live; the other worker's may come and go.
HOME = "attacked-server-"
_SHARED = (Path("/tmp"), Path("/dev/shm"), Path("/dev/mqueue"))


@dataclass(frozen=True)
class Traces:
    """A snapshot. `mounts` counts the mounts of each mount namespace of the server."""

    processes: Counter[str]
    mounts: Counter[str]
    groups: Counter[str]
    files: frozenset[str]
    descriptors: int

    def since(self, before: "Traces") -> list[str]:
        """What was added after the other snapshot."""
        mounts = {name: n for name, n in self.mounts.items() if name in before.mounts}
        return [
            *(f"process {name}" for name in (self.processes - before.processes).elements()),
            *(f"mount in {name}" for name in Counter(mounts) - before.mounts),
            *(f"control group {name}" for name in (self.groups - before.groups).elements()),
            *(f"file {name}" for name in sorted(self.files - before.files)),
            *(["descriptors"] if self.descriptors > before.descriptors else []),
        ]


def take_traces(server: ServerProcess, gone: "set[int] | None" = None) -> Traces:
    """The traces now, of the server and of its processes that have ended."""
    family = process_tree_of(server)
    owners = family | (gone or set())
    return Traces(
        processes=Counter(filter(None, map(name_of, family))),
        mounts=Counter(dict(_mounts(server, family))),
        groups=Counter(re.sub(r"\d+", "*", path.name) for path in control_groups(owners)),
        files=frozenset(_files(server)),
        descriptors=_descriptors(family),
    )


def process_tree_of(server: ServerProcess) -> set[int]:
    """The server's process and its descendants."""
    assert server.process is not None
    return {server.process.pid, *descendants(server.process.pid)}


class TraceMonitor:
    """Remembers the traces of a server while nothing runs."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._before = _when_quiet(server)
        self._seen = process_tree_of(server)

    @contextmanager
    def assert_nothing_remains(self) -> Generator[None, None, None]:
        """Fails if traces of what is done in this context remain after a while."""
        self._seen |= process_tree_of(self._server)
        yield
        deadline = time.monotonic() + _DEADLINE_S
        while remaining := take_traces(self._server, self._seen).since(self._before):
            assert time.monotonic() < deadline, remaining
            time.sleep(_POLL_S)


def _when_quiet(server: ServerProcess) -> Traces:
    """The traces of the server once they have not changed for a while."""
    deadline = time.monotonic() + _DEADLINE_S
    traces, since = take_traces(server), time.monotonic()
    while time.monotonic() - since < _QUIET_S:
        assert time.monotonic() < deadline, "the server is never quiet"
        time.sleep(_POLL_S)
        if (current := take_traces(server)) != traces:
            traces, since = current, time.monotonic()
    return traces


def parents_by_pid() -> dict[int, int]:
    """Every process of the machine with its parent."""
    table: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                table[int(folder.name)] = int(fields[1])
    return table


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    table = parents_by_pid()
    pids = [pid]
    for each in pids:
        pids += [child for child, parent in table.items() if parent == each]
    return pids[1:]


def name_of(pid: int) -> str:
    """The kernel's name of a process, "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def find_processes(word: str) -> list[int]:
    """Ids of the processes with this word in their command line."""
    pids: list[int] = []
    for pid in parents_by_pid():
        with contextlib.suppress(OSError):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                pids.append(pid)
    return pids


def control_groups(pids: set[int]) -> list[Path]:
    """The groups that these processes have made for their runs."""
    groups: list[Path] = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            owner = name.removeprefix("monkey-coder-").partition("-")[0]
            if name.startswith("monkey-coder-") and owner.isdigit() and int(owner) in pids:
                groups += [Path(folder, name), *_inner(Path(folder, name))]
    return groups


def _inner(group: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from [path for path in group.iterdir() if path.is_dir()]


def _mounts(server: ServerProcess, family: set[int]) -> Iterator[tuple[str, int]]:
    """(Namespace, number of mounts) for those outside of sandboxes; of the tests' own, ours."""
    own = str(Path("/proc/self/ns/mnt").readlink())
    for pid in family:
        for task in _tasks(pid):
            with contextlib.suppress(OSError):
                if len(_nested(task)) > 1:
                    continue
                place = str((task / "ns" / "mnt").readlink())
                lines = (task / "mountinfo").read_text().splitlines()
                # Others mount too in the namespace that all share.
                mine = [line for line in lines if place != own or str(server.data_dir) in line]
                yield place, len(mine)


def _tasks(pid: int) -> list[Path]:
    with contextlib.suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _nested(task: Path) -> list[str]:
    """Its process id in each PID namespace."""
    for line in (task / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return line.split()[1:]
    return []


def _files(server: ServerProcess) -> Iterator[str]:
    for folder, names, files in os.walk(server.data_dir):
        names[:] = [name for name in names if name not in ("sandbox-python", "models")]
        # The database makes and removes files of its own.
        yield from (str(Path(folder, n)) for n in (*names, *files) if ".db" not in n)
    uid = server.data_dir.stat().st_uid
    for path in (path for folder in _SHARED if folder.is_dir() for path in folder.iterdir()):
        if path.name.startswith(HOME):
            continue
        with contextlib.suppress(OSError):
            owner = path.lstat().st_uid
            if owner >= _FIRST_UID_OF_RUNS or (owner == uid and uid != os.geteuid()):
                yield str(path)


def _descriptors(family: set[int]) -> int:
    """Open files but connections, whose clients come and go."""
    count = 0
    for pid in family:
        with contextlib.suppress(OSError):
            links = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()]
            count += sum(not link.startswith("socket:") for link in links)
    return count
