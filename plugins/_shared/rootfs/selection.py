"""Finds the root file system that the setting sandbox.rootfs names."""

import platform
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.domain import rootfs
from appliance.domain.rootfs import RootfsRecord
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext


class RootFilesystem(Struct, frozen=True):
    """`path` is the folder that runs see as /; nobody may write to it.

    `image` is a squashfs file with the same content, if there is one. `sha256` is the digest of
    the tree. `python` is the path inside of the root's own Python and `glibc` the version of its C
    library; "" if it has none.
    """

    name: str
    path: Path
    image: Path | None
    sha256: str
    python: str = ""
    glibc: str = ""


def selected_root(context: PluginContext) -> RootFilesystem | None:
    """The root that the setting names; None if it is empty, and runs see the host's system.

    Raises SandboxUnavailable if the root is missing or for another architecture.
    """
    name = str(context.settings.get("rootfs", ""))
    if not name:
        return None
    return find_root(context.rootfs_dir or context.data_dir / rootfs.DIRECTORY, name)


def find_root(folder: Path, name: str) -> RootFilesystem:
    """The root of that name among those in `folder`. Raises SandboxUnavailable."""
    record = _read_record(folder / name, name)
    if record.machine != platform.machine():
        raise SandboxUnavailable.with_remedy(
            f"the root file system {name} is for {record.machine}, this machine is "
            f"{platform.machine()}",
            "add one for this machine: monkey-coder sandbox rootfs add FILE",
        )
    image = folder / name / rootfs.IMAGE_FILE
    return RootFilesystem(
        name=name,
        path=folder / name / rootfs.TREE_DIRECTORY,
        image=image if image.is_file() else None,
        sha256=record.sha256,
        python=record.python,
        glibc=record.glibc,
    )


def _read_record(home: Path, name: str) -> RootfsRecord:
    if not rootfs.NAME_PATTERN.fullmatch(name) or not (home / rootfs.TREE_DIRECTORY).is_dir():
        raise SandboxUnavailable.with_remedy(
            f"sandbox.rootfs: {name!r} is not a root file system of this installation",
            "list those that exist: monkey-coder sandbox rootfs list",
        )
    try:
        return msgspec.json.decode((home / rootfs.RECORD_FILE).read_bytes(), type=RootfsRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise SandboxUnavailable.with_remedy(
            f"the record of the root file system {name} can't be read: {error}",
            f"run `monkey-coder sandbox rootfs remove {name}`, then add it again",
        ) from error
