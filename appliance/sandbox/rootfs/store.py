"""The root file systems of a box: what its sandboxes may show instead of the host's own."""

import hashlib
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.domain import rootfs
from appliance.domain.rootfs import RootRecord
from appliance.errors import Conflict, InvalidInput, NotFound, SetupError
from appliance.sandbox.rootfs import fingerprint, importer, inspection, tree_writer
from appliance.sandbox.rootfs.directory import RootHome, told
from appliance.sandbox.rootfs.formats.entries import Bounds
from appliance.sandbox.rootfs.importer import Given
from appliance.sandbox.rootfs.naming import check_name, default_name
from appliance.sandbox.rootfs.tree_writer import Progress, TreeWriter


class RootStore:
    """Those below `<data_dir>/sandbox-rootfs`; a running box sees them at its next start.

    Safe beside other processes that do the same: one is added or removed at a time.
    """

    def __init__(self, data_dir: Path, bounds: Bounds) -> None:
        self._home = RootHome(data_dir.absolute() / rootfs.FOLDER)
        self._bounds = bounds

    def list(self) -> Sequence[RootRecord]:
        """Every root file system, by name. Raises SetupError for what can't be read."""
        with told("the root file systems can't be read"):
            names = self._home.names()
        return [self.get(name) for name in names]

    def get(self, name: str) -> RootRecord:
        """Raises NotFound, and SetupError for a record that can't be read."""
        with told("the root file systems can't be read"):
            if name not in self._home.names():
                raise _unknown(name)
        path = self._home.folder / name / rootfs.RECORD
        try:
            return msgspec.json.decode(path.read_bytes(), type=RootRecord)
        except (OSError, msgspec.DecodeError) as error:
            raise SetupError(
                f"the record of the root file system {name} can't be read ({error}); "
                "remove it and add it again"
            ) from error

    def add(self, source: Path, name: str | None, sha256: str, progress: Progress) -> RootRecord:
        """Bring a squashfs image, a tar archive or a folder onto the box.

        If it fails or is interrupted, nothing is left; after a kill, what was left is removed
        the next time. `sha256` is what a file must be, "" for anything. Raises InvalidInput for
        what is no root file system for this machine, Conflict if the name is taken.
        """
        name = default_name(source) if name is None else name
        check_name(name)
        failed = told(f"{source} could not be added, and nothing was left behind")
        with failed, self._home.one_at_a_time(), self._home.scratch() as scratch:
            self._check_free(name)
            record = self._made(source, name, sha256, scratch, progress)
            (scratch / rootfs.RECORD).write_bytes(msgspec.json.encode(record))
            self._home.publish(scratch, name)
        return record

    def remove(self, name: str) -> None:
        """Whatever its record says. Raises NotFound."""
        check_name(name)
        failed = told(f"the root file system {name} could not be removed")
        with failed, self._home.one_at_a_time(), self._home.scratch() as scratch:
            if not (self._home.folder / name).is_dir():
                raise _unknown(name)
            (self._home.folder / name).rename(scratch / name)

    def check(self, name: str, progress: Progress) -> RootRecord:
        """Hold every file against the record. Raises InvalidInput with what is wrong."""
        record = self.get(name)
        with told(f"the root file system {name} can't be read"):
            self._check(record, progress)
        return record

    def _check(self, record: RootRecord, progress: Progress) -> None:
        name = record.name
        home = self._home.folder / name
        if not (home / rootfs.TREE).is_dir():
            raise InvalidInput(f"the root file system {name} lost its files; {_again(name)}")
        inspection.examine(home / rootfs.TREE, platform.machine())
        found = fingerprint.measure(home / rootfs.TREE, progress)
        if found.sha256 != record.sha256:
            raise InvalidInput(
                f"the root file system {name} is not what was added: {found.files} files and "
                f"{found.size} bytes, where {record.files} and {record.size} were; {_again(name)}"
            )
        if record.kind == "squashfs":
            self._check_image(record)

    def _check_image(self, record: RootRecord) -> None:
        image = self._home.folder / record.name / rootfs.IMAGE
        if image.is_file():
            with image.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == record.source_sha256:
                    return
        raise InvalidInput(
            f"the image of the root file system {record.name} is not what was added; "
            f"{_again(record.name)}"
        )

    def _made(
        self, source: Path, name: str, sha256: str, scratch: Path, progress: Progress
    ) -> RootRecord:
        tree = scratch / rootfs.TREE
        tree.mkdir()
        writer = TreeWriter(tree, self._bounds, progress)
        try:
            given = Given(source, sha256, scratch / rootfs.IMAGE, self._home.folder)
            kind, digest = importer.fill(writer, given, self._bounds, progress)
        finally:
            writer.close()
        found = inspection.examine(tree, platform.machine())
        tree_writer.open_to_all(tree)
        measured = fingerprint.measure(tree, progress)
        return RootRecord(
            name=name,
            kind=kind,
            source=os.fsencode(source).decode(errors="replace"),
            source_sha256=digest,
            sha256=measured.sha256,
            files=measured.files,
            size=measured.size,
            machine=found.machine,
            shell=found.shell,
            python=found.python,
            glibc=found.glibc,
            left_out=writer.left_out,
            added_at=time.time(),
        )

    def _check_free(self, name: str) -> None:
        if (self._home.folder / name).exists():
            raise Conflict(
                f"there is a root file system {name!r} already; remove it, or choose another "
                "name with --name"
            )


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"no root file system {name[:80]!r} on this box; `monkey-coder sandbox rootfs list` shows "
        "what there is"
    )


def _again(name: str) -> str:
    return f"remove {name} and add it again"
