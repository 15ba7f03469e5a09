"""The folders that a run may write to: /workspace, /tmp and /dev/shm, each a tmpfs.

As root they are tmpfs of the host, since gVisor's own had no limit on the number of files before
2026. Nobody else on the host sees them: the launcher mounts them in its mount namespace. For an
ordinary user they are gVisor's own: files on the host can only belong to that one user, whom
gVisor's file server maps to root inside. There the agent counts the files.
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
_WORKSPACE_ANNOTATION = "dev.gvisor.spec.mount.workspace"

OciMount = dict[str, Any]


class TmpfsMount(Struct, frozen=True):
    """`destination` is its path inside, `options` are those of tmpfs(5).

    `max_files` is the limit on its files. `host_folder` is where the launcher mounts it; None if
    gVisor makes it, which does not enforce that limit.
    """

    destination: str
    options: str
    max_files: int
    host_folder: Path | None

    def to_oci(self) -> OciMount:
        """An entry of `mounts` in config.json."""
        options = ["nosuid", "nodev"]
        if self.host_folder is not None:
            kind, source, options = "bind", str(self.host_folder), ["bind", "rw", *options]
        else:
            kind, source, options = "tmpfs", "tmpfs", [*options, *self.options.split(",")]
        return {
            "destination": self.destination,
            "type": kind,
            "source": source,
            "options": options,
        }


def run_tmpfs_mounts(limits: Limits, host_folder: Path | None) -> tuple[TmpfsMount, ...]:
    """The mounts of one run; below `host_folder`, if the launcher is to make them."""
    inodes = f"nr_inodes={limits.workspace_files + 1}"  # the folder itself is one
    tmp = f"size={limits.tmp_bytes},{inodes},mode=1777"
    workspace = f"size={limits.workspace_bytes},{inodes},mode=0755,uid={USER},gid={USER}"
    options = {init.WORKSPACE: workspace, _TMP: tmp, _SHM: tmp}
    return tuple(
        TmpfsMount(
            destination,
            words,
            limits.workspace_files,
            host_folder and host_folder / destination.rpartition("/")[2],
        )
        for destination, words in options.items()
    )


def agent_file_limits(mounts: Iterable[TmpfsMount]) -> list[int]:
    """The agent's argument with the file limit, if nothing else enforces it."""
    return sorted({mount.max_files for mount in mounts if mount.host_folder is None})


def launcher_arguments(mounts: Iterable[TmpfsMount]) -> list[str]:
    """The launcher's arguments for the mounts on the host: options, colon, folder.

    Creates the folders. Raises OSError.
    """
    on_host = [(mount.options, mount.host_folder) for mount in mounts if mount.host_folder]
    for _, folder in on_host:
        folder.mkdir(mode=0o700, parents=True)
    return [f"{options}:{folder}" for options, folder in on_host]


def annotations(mounts: Iterable[TmpfsMount]) -> dict[str, str]:
    """Mark the workspace as shared with the host.

    runsc is started with exclusive file access, so it caches the attributes of host files. After a
    link of a workspace file is removed, the cached link count is wrong, and artifacts are chosen by
    that count.
    """
    for mount in mounts:
        if mount.destination == init.WORKSPACE and mount.host_folder is not None:
            hints = {"source": str(mount.host_folder), "type": "bind", "share": "shared"}
            return {f"{_WORKSPACE_ANNOTATION}.{key}": value for key, value in hints.items()}
    return {}
