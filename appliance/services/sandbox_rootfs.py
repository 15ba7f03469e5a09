"""The root file systems of a box: what its sandboxes may show instead of the host's own."""

import contextlib
import ctypes
import fcntl
import hashlib
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec

from appliance.domain import rootfs
from appliance.domain.rootfs import RootRecord
from appliance.errors import Conflict, InvalidInput, NotFound, SetupError
from appliance.services import rootfs_check, rootfs_source, rootfs_tree
from appliance.services.rootfs_entries import Bounds
from appliance.services.rootfs_source import Given
from appliance.services.rootfs_tree import Progress, TreeWriter

_UNFINISHED = ".unfinished-"
_ENDINGS = re.compile(r"(\.(tar|tgz|txz|tbz2?|gz|xz|bz2|zst|squashfs|sqfs|sfs|img))+$")


class RootStore:
    """Those below `<data_dir>/sandbox-rootfs`; a running box sees them at its next start.

    Safe beside other processes that do the same: one is added or removed at a time.
    """

    def __init__(self, data_dir: Path, bounds: Bounds) -> None:
        self._home = data_dir.absolute() / rootfs.FOLDER
        self._bounds = bounds

    def list(self) -> Sequence[RootRecord]:
        """Every root file system, by name."""
        if not self._home.is_dir():
            return []
        records = sorted(self._home.glob(f"*/{rootfs.RECORD}"))
        names = (path.parent.name for path in records)
        return [self.get(name) for name in names if rootfs.NAME.fullmatch(name)]

    def get(self, name: str) -> RootRecord:
        """Raises NotFound, and SetupError for a record that can't be read."""
        path = self._home / name / rootfs.RECORD
        if not rootfs.NAME.fullmatch(name) or not path.is_file():
            raise _unknown(name)
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
        failed = _told(f"{source} could not be added, and nothing was left behind")
        with failed, self._one_at_a_time(), self._scratch() as scratch:
            self._check_free(name)
            record = self._made(source, name, sha256, scratch, progress)
            (scratch / rootfs.RECORD).write_bytes(msgspec.json.encode(record))
            scratch.chmod(0o755)
            _to_disk(scratch)
            scratch.rename(self._home / name)
            _to_disk(self._home)
        return record

    def remove(self, name: str) -> None:
        """Whatever its record says. Raises NotFound."""
        check_name(name)
        failed = _told(f"the root file system {name} could not be removed")
        with failed, self._one_at_a_time(), self._scratch() as scratch:
            if not (self._home / name).is_dir():
                raise _unknown(name)
            (self._home / name).rename(scratch / name)

    def check(self, name: str, progress: Progress) -> RootRecord:
        """Hold every file against the record. Raises InvalidInput with what is wrong."""
        record = self.get(name)
        with _told(f"the root file system {name} can't be read"):
            self._check(record, progress)
        return record

    def _check(self, record: RootRecord, progress: Progress) -> None:
        name = record.name
        home = self._home / name
        if not (home / rootfs.TREE).is_dir():
            raise InvalidInput(f"the root file system {name} lost its files; {_again(name)}")
        rootfs_check.examine(home / rootfs.TREE, platform.machine())
        found = rootfs_tree.measure(home / rootfs.TREE, progress)
        if found.sha256 != record.sha256:
            raise InvalidInput(
                f"the root file system {name} is not what was added: {found.files} files and "
                f"{found.size} bytes, where {record.files} and {record.size} were; {_again(name)}"
            )
        if record.kind == "squashfs":
            self._check_image(record)

    def _check_image(self, record: RootRecord) -> None:
        image = self._home / record.name / rootfs.IMAGE
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
            given = Given(source, sha256, scratch / rootfs.IMAGE, self._home)
            kind, digest = rootfs_source.fill(writer, given, self._bounds, progress)
        finally:
            writer.close()
        found = rootfs_check.examine(tree, platform.machine())
        rootfs_tree.open_to_all(tree)
        measured = rootfs_tree.measure(tree, progress)
        return RootRecord(
            name=name,
            kind=kind,
            source=str(source),
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
        if (self._home / name).exists():
            raise Conflict(
                f"there is a root file system {name!r} already; remove it, or choose another "
                "name with --name"
            )

    @contextlib.contextmanager
    def _scratch(self) -> Generator[Path]:
        # Left by a process that was killed; nobody else is at work while we hold the lock.
        for left in self._home.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left)
        scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._home))
        try:
            yield scratch
        finally:
            if scratch.exists():
                shutil.rmtree(scratch)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Generator[None]:
        self._home.mkdir(mode=0o755, exist_ok=True)
        descriptor = os.open(self._home / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise Conflict(
                "another root file system is being added or removed; wait for it"
            ) from None
        finally:
            os.close(descriptor)


def check_name(name: str) -> None:
    if not rootfs.NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is no name for a root file system: use up to 64 of a-z, 0-9, '.', "
            "'_' and '-', a letter or digit first"
        )


def default_name(source: Path) -> str:
    """A name from the file's own."""
    plain = _ENDINGS.sub("", source.absolute().name.lower())
    name = re.sub(r"[^a-z0-9._-]+", "-", plain).strip("-._")[:64]
    return name or "root"


@contextlib.contextmanager
def _told(failed: str) -> Generator[None]:
    """What the system refuses, in words."""
    try:
        yield
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        raise SetupError(f"{failed}: {what}{error.strerror or error}") from error


def _to_disk(folder: Path) -> None:
    """Everything on that file system, so that a name which outlives a power cut is whole."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"no root file system {name[:80]!r} on this box; `monkey-coder sandbox rootfs list` shows "
        "what there is"
    )


def _again(name: str) -> str:
    return f"remove {name} and add it again"
