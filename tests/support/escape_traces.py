"""What a box and its runs have on the machine: processes, mounts, control groups, files."""

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
# Where the tests' own boxes live; the other worker's may come and go.
HOME = "attacked-box-"
_SHARED = (Path("/tmp"), Path("/dev/shm"), Path("/dev/mqueue"))


@dataclass(frozen=True)
class Traces:
    """One look. `mounts` counts the lines of each mount namespace that the box lives in."""

    processes: Counter[str]
    mounts: Counter[str]
    groups: Counter[str]
    files: frozenset[str]
    descriptors: int

    def more_than(self, before: "Traces") -> list[str]:
        """What is here now and was not before."""
        mounts = {name: n for name, n in self.mounts.items() if name in before.mounts}
        return [
            *(f"process {name}" for name in (self.processes - before.processes).elements()),
            *(f"mount in {name}" for name in Counter(mounts) - before.mounts),
            *(f"control group {name}" for name in (self.groups - before.groups).elements()),
            *(f"file {name}" for name in sorted(self.files - before.files)),
            *(["descriptors"] if self.descriptors > before.descriptors else []),
        ]


def look(server: ServerProcess, gone: "set[int] | None" = None) -> Traces:
    """What is there at this moment, of the box and of those of its processes that are gone."""
    family = family_of(server)
    owners = family | (gone or set())
    return Traces(
        processes=Counter(filter(None, map(name_of, family))),
        mounts=Counter(dict(_mounts(server, family))),
        groups=Counter(re.sub(r"\d+", "*", path.name) for path in control_groups(owners)),
        files=frozenset(_files(server)),
        descriptors=_descriptors(family),
    )


def family_of(server: ServerProcess) -> set[int]:
    """The box's process and all that come from it."""
    assert server.process is not None
    return {server.process.pid, *descendants(server.process.pid)}


class Watch:
    """Remembers what a box has when no run is going on."""

    def __init__(self, server: ServerProcess) -> None:
        self._box = server
        self._before = _when_quiet(server)
        self._seen = family_of(server)

    @contextmanager
    def nothing_left(self) -> Generator[None, None, None]:
        """Whatever is done in this context leaves nothing, soon after its end."""
        self._seen |= family_of(self._box)
        yield
        deadline = time.monotonic() + _DEADLINE_S
        while left := look(self._box, self._seen).more_than(self._before):
            assert time.monotonic() < deadline, left
            time.sleep(_POLL_S)


def _when_quiet(server: ServerProcess) -> Traces:
    """The look at a box that has done for a moment what it does by itself."""
    deadline = time.monotonic() + _DEADLINE_S
    seen, since = look(server), time.monotonic()
    while time.monotonic() - since < _QUIET_S:
        assert time.monotonic() < deadline, "the box is never quiet"
        time.sleep(_POLL_S)
        if (now := look(server)) != seen:
            seen, since = now, time.monotonic()
    return seen


def parents() -> dict[int, int]:
    """Every process of the machine with its parent."""
    found: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                found[int(folder.name)] = int(fields[1])
    return found


def descendants(pid: int) -> list[int]:
    """The children of a process, their children, and so on."""
    table = parents()
    found = [pid]
    for each in found:
        found += [child for child, parent in table.items() if parent == each]
    return found[1:]


def name_of(pid: int) -> str:
    """The kernel's name of a process, "" if it is gone."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def with_word(word: str) -> list[int]:
    """Processes that have this word in their command line."""
    found: list[int] = []
    for pid in parents():
        with contextlib.suppress(OSError):
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def control_groups(pids: set[int]) -> list[Path]:
    """The groups that these processes have made for their runs."""
    found: list[Path] = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            owner = name.removeprefix("monkey-coder-").partition("-")[0]
            if name.startswith("monkey-coder-") and owner.isdigit() and int(owner) in pids:
                found += [Path(folder, name), *_inner(Path(folder, name))]
    return found


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
    """The process ids that it has, one for each namespace that it is in."""
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
