"""Sessions on the disk: a folder each, with a record (JSON) and the archive that it names.

A folder appears and disappears by being renamed, and a record is replaced as a whole. So what a
crash leaves is complete, or named so that the next start removes it.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

_RECORD = "record.json"
_HIDDEN = "."  # names of folders that are not complete begin with it

log = structlog.get_logger()


class SessionRecord(Struct, frozen=True):
    """Times are epoch seconds. `archive` is a file name; "": the workspace is empty.

    The first `archive_bytes` of it count. They hold `files` entries with `content_bytes`, in whole
    pages. `rootfs` is the root file system that the session was opened with.
    """

    id: str
    user_id: int
    max_bytes: int
    max_files: int
    created_at: float
    last_used_at: float
    expires_at: float
    idle_s: float
    rootfs: str = ""
    generation: int = 0
    archive: str = ""
    archive_bytes: int = 0
    content_bytes: int = 0
    files: int = 0

    def ends_at(self) -> float:
        """When it expires if it is not used."""
        return min(self.expires_at, self.last_used_at + self.idle_s)


class SessionStore:
    """The folders of all sessions. Its methods block, and raise OSError."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, session_id: str) -> Path:
        return self._root / session_id

    def load(self) -> Iterator[SessionRecord]:
        """The records of all complete sessions; what is not complete is removed."""
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in sorted(self._root.iterdir()):
            record = None if folder.name.startswith(_HIDDEN) else _read_record(folder)
            if record is None:
                log.warning("sandbox.session_incomplete", session=folder.name)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            for file in folder.iterdir():
                if file.name not in (_RECORD, record.archive):
                    file.unlink()
            yield record

    def create(self, record: SessionRecord) -> None:
        folder = self._root / f"{_HIDDEN}new-{record.id}"
        folder.mkdir(mode=0o700, parents=True)
        _write_record(folder, record, durable=True)
        folder.rename(self.folder(record.id))

    def save(self, record: SessionRecord, *, durable: bool = True) -> None:
        """Replace the record; with `durable`, also in spite of a power failure."""
        _write_record(self.folder(record.id), record, durable=durable)

    def remove(self, session_id: str) -> None:
        hidden = self._root / f"{_HIDDEN}old-{session_id}"
        self.folder(session_id).rename(hidden)
        shutil.rmtree(hidden)


def _read_record(folder: Path) -> SessionRecord | None:
    """None if the folder is no complete session."""
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=SessionRecord)
        complete = not record.archive or (
            (folder / record.archive).stat().st_size >= record.archive_bytes
        )
    except (OSError, msgspec.DecodeError):
        return None
    return record if complete and record.id == folder.name else None


def _write_record(folder: Path, record: SessionRecord, *, durable: bool) -> None:
    new = folder / f"{_RECORD}.new"
    with new.open("wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        if durable:
            os.fsync(file.fileno())
    new.rename(folder / _RECORD)
    if durable:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
