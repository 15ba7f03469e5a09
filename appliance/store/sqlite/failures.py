"""What SQLite's errors mean to whoever runs the box."""

import sqlite3
from pathlib import Path

from appliance.errors import ApplianceError, StoreError, Unavailable

_RETRY_S = 1.0
_RUNTIME: dict[int, tuple[type[ApplianceError], str]] = {
    sqlite3.SQLITE_FULL: (Unavailable, "the box's disk is full: nothing can be stored now"),
    sqlite3.SQLITE_IOERR: (Unavailable, "the box's disk reports an error: nothing can be stored"),
    sqlite3.SQLITE_READONLY: (
        Unavailable,
        "the box's database is read-only: nothing can be stored",
    ),
    sqlite3.SQLITE_CANTOPEN: (Unavailable, "the box's database can't be opened"),
    sqlite3.SQLITE_BUSY: (Unavailable, "the box's database is busy; try again in a moment"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "the box's database is busy; try again in a moment"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "the box's database is damaged; restore a backup"),
    sqlite3.SQLITE_NOTADB: (StoreError, "the box's database is damaged; restore a backup"),
}
_AT_OPEN: dict[int, str] = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space",
    sqlite3.SQLITE_IOERR: "the disk reports an error; check it and the free space",
    sqlite3.SQLITE_READONLY: "it is read-only; make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened; check that the folder exists and is yours",
    sqlite3.SQLITE_PERM: "permission denied; check the owner of the file and its folder",
    sqlite3.SQLITE_AUTH: "permission denied; check the owner of the file and its folder",
    sqlite3.SQLITE_BUSY: "another program has it locked; stop that one",
    sqlite3.SQLITE_LOCKED: "another program has it locked; stop that one",
    sqlite3.SQLITE_CORRUPT: "it is damaged; restore a backup",
    sqlite3.SQLITE_NOTADB: "it is not a database; move it away or restore a backup",
}


def at_runtime(error: sqlite3.Error) -> Exception:
    """The error to raise for one of SQLite's while the box runs.

    What no disk or lock explains (a broken constraint, wrong SQL) stays as it is.
    """
    kind, message = _RUNTIME.get(_primary_code(error), (None, ""))
    return kind(message, retry_after=_RETRY_S) if kind else error


def at_open(error: sqlite3.Error, path: Path) -> StoreError:
    """The error to raise when the database at `path` can't be opened or brought up to date."""
    return StoreError(f"the database {path}: {_AT_OPEN.get(_primary_code(error), error)}")


def _primary_code(error: sqlite3.Error) -> int:
    # Errors that Python's own module raises carry no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
