"""What a run sees: a root file system made once, and an OCI bundle for each run.

See config.md of the OCI runtime specification for the keys of config.json.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.domain import toolchain_cache
from plugins._shared.guest.agent_bundle import agent_files
from plugins._shared.rootfs import system_mounts
from plugins._shared.rootfs.python import Interpreter
from plugins._shared.stage.environment import ENVIRONMENT, TOOLCHAINS
from plugins.sandboxes.gvisor.tmpfs_mounts import USER, Mount, Room, hints, most_files

_AGENT = "/etc/sandbox"
_FOLDERS = ("proc", "dev", "sys", "tmp", "run", "var", "workspace", "etc/sandbox")
_ETC = {
    "passwd": f"root:x:0:0::/:/bin/false\nsandbox:x:{USER}:{USER}::/tmp:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nsandbox:x:{USER}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# For the agent alone: to give the stage a process namespace, a /proc and a user of its own, and
# to find all of the run's files.
_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_READ_SEARCH"]
_NAMESPACES = ("pid", "mount", "ipc", "uts", "network")


class Root:
    """The root file system of all runs, in `folder`: mount points, links and a few files.

    `names` are those that a run sees at the root.
    """

    def __init__(
        self,
        folder: Path,
        python: Interpreter,
        chosen: Path | None,
        toolchains: Sequence[Path] = (),
        ready: Path | None = None,
    ) -> None:
        """Lay it out. `chosen` is the folder of a root file system, None: the host's is shown.

        `ready` is that of what languages have ready-made. Raises OSError.
        """
        self._folder = folder
        self._program = python.program
        self._mounts: list[Mount] = []
        for name in _FOLDERS:
            self._make_folder(name)
        for name, text in _ETC.items():
            self._write(f"etc/{name}", text.encode())
        for name, content in agent_files().items():
            self._write(f"{_AGENT[1:]}/{name}", content)
        (folder / "var" / "tmp").symlink_to("../tmp")
        etc = folder / "etc"
        shown = system_mounts.system(chosen, etc, system_mounts.config_of(chosen))
        self._lay_out([*shown, *system_mounts.python(python.own, python.program)], etc)
        for number, path in enumerate(toolchains):
            self._show(path, f"{TOOLCHAINS}/{number}")
        if ready is not None:
            self._show(ready, toolchain_cache.INSIDE)
        self.names = frozenset(path.name for path in folder.iterdir())

    def write_bundle(self, place: Path, rooms: Sequence[Room]) -> None:
        """The config.json of one run with these rooms, in the folder `place`. Raises OSError."""
        proc = {"destination": "/proc", "type": "proc", "source": "proc"}
        config = {
            "ociVersion": "1.0.2",
            "hostname": "sandbox",
            "root": {"path": str(self._folder), "readonly": True},
            "mounts": [*self._mounts, proc, *(room.mount() for room in rooms)],
            "annotations": hints(rooms),
            "process": self._process(most_files(rooms)),
            "linux": {"namespaces": [{"type": name} for name in _NAMESPACES]},
        }
        (place / "config.json").write_text(json.dumps(config))

    def _process(self, files: Sequence[int]) -> dict[str, Any]:
        words = [self._program, "-I", "-S", f"{_AGENT}/agent.pyc", "0", "1", str(USER)]
        return {
            "args": [*words, *map(str, files)],
            "cwd": "/",
            "env": [f"PATH={ENVIRONMENT['PATH']}"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_MSGQUEUE", "soft": 0, "hard": 0}],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        }

    def _lay_out(self, options: Sequence[str], etc: Path) -> None:
        """What those options of bwrap would show; each has two words behind it."""
        for option, source, at in zip(*[iter(options)] * 3, strict=True):
            path = Path(source)
            if option == "--symlink":
                self._make_folder(str(Path(at[1:]).parent))
                (self._folder / at[1:]).symlink_to(source)
            elif path != etc and (option == "--ro-bind" or path.exists()):
                self._show(path, at)

    def _show(self, source: Path, at: str) -> None:
        """The host's file or folder, to be read there."""
        if source.is_dir():
            self._make_folder(at[1:])
        else:
            self._write(at[1:], b"")
        options = ["bind", "ro", "nosuid", "nodev"]
        self._mounts.append(
            {"destination": at, "type": "bind", "source": str(source), "options": options}
        )

    def _make_folder(self, name: str) -> None:
        path = self._folder
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        for part in name.split("/"):
            path /= part
            path.mkdir(exist_ok=True)
            path.chmod(0o755)

    def _write(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.write_bytes(content)
        path.chmod(0o644)
