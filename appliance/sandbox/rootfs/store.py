"""Store of the root file systems that sandboxes may use instead of the host's files."""

import hashlib
import os
import platform
import re
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.domain import rootfs
from appliance.domain.rootfs import RootfsRecord
from appliance.errors import Conflict, InvalidInput, NotFound, SetupError
from appliance.sandbox.rootfs import fingerprint, importer, inspection, tree_writer
from appliance.sandbox.rootfs.directory import RootfsDirectory, translate_os_errors
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits
from appliance.sandbox.rootfs.importer import ImportRequest
from appliance.sandbox.rootfs.tree_writer import Progress, TreeWriter

_ENDINGS = re.compile(r"(\.(tar|tgz|txz|tbz2?|gz|xz|bz2|zst|squashfs|sqfs|sfs|img))+$")


class RootfsStore:
    """The root file systems in `<data_dir>/sandbox-rootfs`; a running server reads them at start.

    Safe for concurrent processes: one root file system is added or removed at a time.
    """

    def __init__(self, data_dir: Path, limits: ArchiveLimits) -> None:
        self._directory = RootfsDirectory(data_dir.absolute() / rootfs.DIRECTORY)
        self._limits = limits

    def list(self) -> Sequence[RootfsRecord]:
        """All root file systems, sorted by name. Raises SetupError if one can't be read."""
        with translate_os_errors("the root file systems can't be read"):
            names = self._directory.names()
        return [self.get(name) for name in names]

    def get(self, name: str) -> RootfsRecord:
        """The record of that name. Raises NotFound, and SetupError if it can't be read."""
        with translate_os_errors("the root file systems can't be read"):
            if name not in self._directory.names():
                raise _unknown(name)
        path = self._directory.folder / name / rootfs.RECORD_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=RootfsRecord)
        except (OSError, msgspec.DecodeError) as error:
            raise SetupError(
                f"the record of the root file system {name} can't be read ({error}); "
                "remove it and add it again"
            ) from error

    def add(self, source: Path, name: str | None, sha256: str, progress: Progress) -> RootfsRecord:
        """Import a squashfs image, a tar archive or a folder.

        A failed or interrupted import leaves nothing behind; after a kill the next call removes
        the remains. `sha256` is the expected digest of a file, "" for any. Raises InvalidInput if
        it is no root file system for this machine, Conflict if the name exists.
        """
        name = default_name(source) if name is None else name
        _check_name(name)
        error_context = translate_os_errors(f"{source} could not be added; nothing was left behind")
        with (
            error_context,
            self._directory.exclusive_lock(),
            self._directory.scratch_folder() as scratch,
        ):
            self._check_name_is_free(name)
            record = self._import(source, name, sha256, scratch, progress)
            (scratch / rootfs.RECORD_FILE).write_bytes(msgspec.json.encode(record))
            self._directory.publish(scratch, name)
        return record

    def remove(self, name: str) -> None:
        """Remove it, even if its record is damaged. Raises NotFound."""
        _check_name(name)
        error_context = translate_os_errors(f"the root file system {name} could not be removed")
        with (
            error_context,
            self._directory.exclusive_lock(),
            self._directory.scratch_folder() as scratch,
        ):
            if not (self._directory.folder / name).is_dir():
                raise _unknown(name)
            (self._directory.folder / name).rename(scratch / name)

    def check(self, name: str, progress: Progress) -> RootfsRecord:
        """Verify all files against the record. Raises InvalidInput with the difference."""
        record = self.get(name)
        with translate_os_errors(f"the root file system {name} can't be read"):
            self._check(record, progress)
        return record

    def _check(self, record: RootfsRecord, progress: Progress) -> None:
        name = record.name
        folder = self._directory.folder / name
        if not (folder / rootfs.TREE_DIRECTORY).is_dir():
            raise InvalidInput(
                f"the root file system {name} has lost its files; {_readd_hint(name)}"
            )
        inspection.inspect_tree(folder / rootfs.TREE_DIRECTORY, platform.machine())
        actual = fingerprint.fingerprint_tree(folder / rootfs.TREE_DIRECTORY, progress)
        if actual.sha256 != record.sha256:
            raise InvalidInput(
                f"the root file system {name} has changed since it was added: {actual.files} files "
                f"with {actual.size} bytes instead of {record.files} with {record.size}; "
                f"{_readd_hint(name)}"
            )
        if record.kind == "squashfs":
            self._check_image(record)

    def _check_image(self, record: RootfsRecord) -> None:
        image = self._directory.folder / record.name / rootfs.IMAGE_FILE
        if image.is_file():
            with image.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == record.source_sha256:
                    return
        raise InvalidInput(
            f"the image of the root file system {record.name} has changed since it was added; "
            f"{_readd_hint(record.name)}"
        )

    def _import(
        self, source: Path, name: str, sha256: str, scratch: Path, progress: Progress
    ) -> RootfsRecord:
        tree = scratch / rootfs.TREE_DIRECTORY
        tree.mkdir()
        writer = TreeWriter(tree, self._limits, progress)
        try:
            request = ImportRequest(
                source, sha256, scratch / rootfs.IMAGE_FILE, self._directory.folder
            )
            kind, digest = importer.import_source(writer, request, self._limits, progress)
        finally:
            writer.close()
        facts = inspection.inspect_tree(tree, platform.machine())
        tree_writer.make_readable(tree)
        measured = fingerprint.fingerprint_tree(tree, progress)
        return RootfsRecord(
            name=name,
            kind=kind,
            source=os.fsencode(source).decode(errors="replace"),
            source_sha256=digest,
            sha256=measured.sha256,
            files=measured.files,
            size=measured.size,
            machine=facts.machine,
            shell=facts.shell,
            python=facts.python,
            glibc=facts.glibc,
            left_out=writer.skipped,
            added_at=time.time(),
        )

    def _check_name_is_free(self, name: str) -> None:
        if (self._directory.folder / name).exists():
            raise Conflict(
                f"the root file system {name!r} exists already; remove it, or choose another "
                "name with --name"
            )


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"no root file system {name[:80]!r}; `monkey-coder sandbox rootfs list` lists all"
    )


def _readd_hint(name: str) -> str:
    return f"remove {name} and add it again"


def _check_name(name: str) -> None:
    if not rootfs.NAME_PATTERN.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no valid name for a root file system: use up to 64 of a-z, 0-9, "
            "'.', '_' and '-', starting with a letter or digit"
        )


def default_name(source: Path) -> str:
    """A valid name derived from the file name of `source`."""
    stem = _ENDINGS.sub("", source.absolute().name.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", stem).strip("-._")[:64]
    return name or "root"
