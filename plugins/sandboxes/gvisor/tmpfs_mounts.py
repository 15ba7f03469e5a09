"""The folders that a run may write to; all of them are in memory.

As root they are the host's own tmpfs, shown to the run: gVisor's of before 2026 knows no
limit on the number of files. Nobody else on the host sees them, since the launcher mounts
them where only it and what it starts look. An ordinary user has to do with gVisor's: files
in the host's can only be given to a user of the host, of whom there is but one then, and
for gVisor's file server that is the root inside. There the agent counts the files.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.domain.execution import Limits
from plugins._shared.stage import init

USER = 1000
_TMP = "/tmp"  # noqa: S108 - the sandbox's own
_SHM = "/dev/shm"  # noqa: S108 - the sandbox's own
_HINT = "dev.gvisor.spec.mount.workspace"

Mount = dict[str, Any]


class Room(Struct, frozen=True):
    """`at` is where the run sees it, `options` are those of tmpfs, see tmpfs(5).

    `files` is how many may lie in it, `place` the host's folder where it is to be mounted;
    None: gVisor is to make it, and does not count them.
    """

    at: str
    options: str
    files: int
    place: Path | None

    def mount(self) -> Mount:
        """As config.json has it."""
        words = ["nosuid", "nodev"]
        if self.place is not None:
            kind, source, words = "bind", str(self.place), ["bind", "rw", *words]
        else:
            kind, source, words = "tmpfs", "tmpfs", [*words, *self.options.split(",")]
        return {"destination": self.at, "type": kind, "source": source, "options": words}


def rooms(limits: Limits, folder: Path | None) -> tuple[Room, ...]:
    """Those of a run; `folder` is its own, where the host is to make them."""
    files = f"nr_inodes={limits.workspace_files + 1}"  # the folder itself is one
    tmp = f"size={limits.tmp_bytes},{files},mode=1777"
    workspace = f"size={limits.workspace_bytes},{files},mode=0755,uid={USER},gid={USER}"
    wanted = ((init.WORKSPACE, workspace), (_TMP, tmp), (_SHM, tmp))
    return tuple(
        Room(at, options, limits.workspace_files, folder and folder / at.rpartition("/")[2])
        for at, options in wanted
    )


def most_files(held: Iterable[Room]) -> list[int]:
    """What the agent is to hold the run to, if nothing else does."""
    return sorted({room.files for room in held if room.place is None})


def made_by_launcher(held: Iterable[Room]) -> list[str]:
    """The launcher's words for those that the host is to hold: options, a colon, the folder.

    Makes the folders. Raises OSError.
    """
    places = [(room.options, room.place) for room in held if room.place is not None]
    for _, place in places:
        place.mkdir(mode=0o700, parents=True)
    return [f"{options}:{place}" for options, place in places]


def hints(held: Iterable[Room]) -> dict[str, str]:
    """What gVisor is told of them, beside how it may treat all that the host shows.

    It is started with the word that nobody else changes what it is shown, and so asks once.
    Of a file in the workspace it then has the number of names wrong once one is taken away,
    and by that number artifacts are chosen.
    """
    for room in held:
        if room.at == init.WORKSPACE and room.place is not None:
            told = {"source": str(room.place), "type": "bind", "share": "shared"}
            return {f"{_HINT}.{name}": word for name, word in told.items()}
    return {}
