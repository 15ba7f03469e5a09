"""Hides the programs of languages that the setting sandbox.languages does not offer.

Each is covered by /dev/null, which can't be executed. A program of the same language that lies
elsewhere than in PATH, or comes with a run, is not hidden.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from appliance.domain.language_programs import ALL_LANGUAGES, is_hidden
from plugins._shared.stage.job import TOOLCHAINS, program_environment

_MAX_LINKS = 40
_OWN = "/opt/python"


def find_hidden(
    root: Path | None, toolchains: Collection[Path], enabled: Collection[str]
) -> tuple[str, ...]:
    """Paths inside of the programs on PATH to hide, without symbolic links.

    `root` is the root file system that runs see; None: the host's.
    """
    if ALL_LANGUAGES in enabled:
        return ()
    system = _System(root, {f"{TOOLCHAINS}/{at}": str(path) for at, path in enumerate(toolchains)})
    path = program_environment(len(toolchains))["PATH"].split(":")
    folders = {system.resolve(folder) for folder in path if not folder.startswith(_OWN)}
    hidden: set[str] = set()
    kept: set[str] = set()
    for folder in filter(None, folders):
        for name, program in system.list_programs(folder):
            (hidden if is_hidden(name, enabled) else kept).add(program)
    # One program may have several names: bash is sh as well on some systems.
    return tuple(sorted(hidden - kept))


def mask_options(paths: Collection[str]) -> list[str]:
    """Options of bwrap, to follow the mounts of the system."""
    return [word for path in paths for word in ("--dev-bind", "/dev/null", path)]


class _System:
    """The files that a run sees. `mounts` are folders of the host by their paths inside."""

    def __init__(self, root: Path | None, mounts: Mapping[str, str]) -> None:
        self._root = "" if root is None else str(root)
        self._mounts = mounts

    def list_programs(self, folder: str) -> Iterator[tuple[str, str]]:
        """Name and path without links of each file in a folder."""
        try:
            entries = list(os.scandir(self._source(folder)))
        except OSError:  # it does not exist, or runs have no access either
            return
        for entry in entries:
            path = f"{folder}/{entry.name}"
            resolved = self.resolve(path) if entry.is_symlink() else path
            if resolved is not None and os.path.isfile(self._source(resolved)):  # noqa: PTH113
                yield entry.name, resolved

    def resolve(self, path: str) -> str | None:
        """The path with every link followed as a run would; None if it leads nowhere.

        A root file system may be hostile: its links are read, and never followed on the host.
        """
        todo = path.split("/")[::-1]
        done = ""
        links_left = _MAX_LINKS
        while todo:
            part = todo.pop()
            if part == "..":
                done = done.rpartition("/")[0]
            elif part not in ("", "."):
                try:
                    target = os.readlink(self._source(f"{done}/{part}"))  # noqa: PTH115
                except OSError:  # no link
                    done = f"{done}/{part}"
                    continue
                links_left -= 1
                if links_left == 0:
                    return None
                done = "" if target.startswith("/") else done
                todo += target.split("/")[::-1]
        return done or "/"

    def _source(self, path: str) -> str:
        """Where a path, whose folders are no links, lies on the host."""
        for inside, folder in self._mounts.items():
            if path == inside or path.startswith(f"{inside}/"):
                return folder + path[len(inside) :]
        return self._root + path
