"""Finds the root file system that the setting sandbox.rootfs names."""

import platform
from pathlib import Path

import msgspec
from msgspec import Struct

from appliance.domain import rootfs
from appliance.domain.rootfs import RootRecord
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext


class Root(Struct, frozen=True):
    """A root file system. `path` is the folder to be seen as /; it is never to be written to.

    `image` is the squashfs file that holds the same, None where there is none. `sha256` is the
    digest of the tree. `python` is the path inside of its own Python and `glibc` the version of
    its C library; each "" where it has none.
    """

    name: str
    path: Path
    image: Path | None
    sha256: str
    python: str = ""
    glibc: str = ""


def chosen(context: PluginContext) -> Root | None:
    """What the setting names, None where it is empty: then the host's own is to be seen.

    Raises SandboxUnavailable, with the remedy, where that root is missing or not for here.
    """
    name = str(context.settings.get("rootfs", ""))
    if not name:
        return None
    return find(context.sandbox_roots or context.data_dir / rootfs.FOLDER, name)


def find(folder: Path, name: str) -> Root:
    """The root of that name among those in `folder`. Raises SandboxUnavailable."""
    record = _read(folder / name, name)
    if record.machine != platform.machine():
        raise _unavailable(
            f"the root file system {name} is made for {record.machine} machines, this one is "
            f"{platform.machine()}",
            "add one for this machine: monkey-coder sandbox rootfs add FILE",
        )
    image = folder / name / rootfs.IMAGE
    return Root(
        name=name,
        path=folder / name / rootfs.TREE,
        image=image if image.is_file() else None,
        sha256=record.sha256,
        python=record.python,
        glibc=record.glibc,
    )


def _read(home: Path, name: str) -> RootRecord:
    if not rootfs.NAME.fullmatch(name) or not (home / rootfs.TREE).is_dir():
        raise _unavailable(
            f"the setting sandbox.rootfs names {name!r}, which was not added to this box",
            "monkey-coder sandbox rootfs list shows what there is",
        )
    try:
        return msgspec.json.decode((home / rootfs.RECORD).read_bytes(), type=RootRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise _unavailable(
            f"the record of the root file system {name} can't be read: {error}",
            f"monkey-coder sandbox rootfs remove {name}, then add it again",
        ) from error


def _unavailable(problem: str, remedy: str) -> SandboxUnavailable:
    return SandboxUnavailable(f"{problem}: {remedy}", details={"remedy": remedy})
