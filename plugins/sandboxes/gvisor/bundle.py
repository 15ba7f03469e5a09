"""What a run sees: one root folder for all runs, and an OCI bundle for each.

The keys of config.json are those of the OCI runtime specification (config.md).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.domain import toolchain_cache
from plugins._shared.guest.agent_bundle import agent_files
from plugins._shared.rootfs import system_mounts
from plugins._shared.rootfs.python import Interpreter
from plugins._shared.stage.job import ENVIRONMENT, TOOLCHAINS
from plugins.sandboxes.gvisor.tmpfs_mounts import (
    USER,
    OciMount,
    TmpfsMount,
    agent_file_limits,
    annotations,
)

_AGENT = "/etc/sandbox"
_FOLDERS = ("proc", "dev", "sys", "tmp", "run", "var", "workspace", "etc/sandbox")
_ETC = {
    "passwd": f"root:x:0:0::/:/bin/false\nsandbox:x:{USER}:{USER}::/tmp:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": f"root:x:0:\nsandbox:x:{USER}:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# For the agent alone: it gives the init process a PID namespace, a /proc and a user of its own,
# and lists all of the run's files.
_CAPABILITIES = ["CAP_SYS_ADMIN", "CAP_SETUID", "CAP_SETGID", "CAP_DAC_READ_SEARCH"]
_NAMESPACES = ("pid", "mount", "ipc", "uts", "network")


class BundleRoot:
    """The root folder of all runs: mount points, links and a few files.

    `names` are the entries that a run sees in /.
    """

    def __init__(
        self,
        folder: Path,
        python: Interpreter,
        base: Path | None,
        toolchains: Sequence[Path] = (),
        toolchain_cache_folder: Path | None = None,
    ) -> None:
        """Build it in `folder`. `base` is a root file system; None: the host's system is shown.

        Raises OSError.
        """
        self._folder = folder
        self._program = python.program
        self._mounts: list[OciMount] = []
        for name in _FOLDERS:
            self._make_folder(name)
        for name, text in _ETC.items():
            self._write(f"etc/{name}", text.encode())
        for name, content in agent_files().items():
            self._write(f"{_AGENT[1:]}/{name}", content)
        (folder / "var" / "tmp").symlink_to("../tmp")
        etc = folder / "etc"
        system = system_mounts.system_mount_options(base, etc, system_mounts.etc_config_names(base))
        own_python = system_mounts.python_mount_options(python.bundled, python.program)
        self._apply_bwrap_options([*system, *own_python], etc)
        for number, path in enumerate(toolchains):
            self._bind(path, f"{TOOLCHAINS}/{number}")
        if toolchain_cache_folder is not None:
            self._bind(toolchain_cache_folder, toolchain_cache.MOUNT_POINT)
        self.names = frozenset(path.name for path in folder.iterdir())

    def write_bundle(self, bundle: Path, mounts: Sequence[TmpfsMount]) -> None:
        """Write the config.json of one run with these mounts to a folder. Raises OSError."""
        proc = {"destination": "/proc", "type": "proc", "source": "proc"}
        config = {
            "ociVersion": "1.0.2",
            "hostname": "sandbox",
            "root": {"path": str(self._folder), "readonly": True},
            "mounts": [*self._mounts, proc, *(mount.to_oci() for mount in mounts)],
            "annotations": annotations(mounts),
            "process": self._process(agent_file_limits(mounts)),
            "linux": {"namespaces": [{"type": name} for name in _NAMESPACES]},
        }
        (bundle / "config.json").write_text(json.dumps(config))

    def _process(self, file_limits: Sequence[int]) -> dict[str, Any]:
        argv = [self._program, "-I", "-S", f"{_AGENT}/agent.pyc", "0", "1", str(USER)]
        return {
            "args": [*argv, *map(str, file_limits)],
            "cwd": "/",
            "env": [f"PATH={ENVIRONMENT['PATH']}"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": True,
            "rlimits": [{"type": "RLIMIT_MSGQUEUE", "soft": 0, "hard": 0}],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
        }

    def _apply_bwrap_options(self, options: Sequence[str], etc: Path) -> None:
        """Show what these options of bwrap would show; each option has two arguments."""
        for option, source, target in zip(*[iter(options)] * 3, strict=True):
            path = Path(source)
            if option == "--symlink":
                self._make_folder(str(Path(target[1:]).parent))
                (self._folder / target[1:]).symlink_to(source)
            elif path != etc and (option == "--ro-bind" or path.exists()):
                self._bind(path, target)

    def _bind(self, source: Path, target: str) -> None:
        """Show a file or folder of the host, read-only."""
        if source.is_dir():
            self._make_folder(target[1:])
        else:
            self._write(target[1:], b"")
        options = ["bind", "ro", "nosuid", "nodev"]
        self._mounts.append(
            {"destination": target, "type": "bind", "source": str(source), "options": options}
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
