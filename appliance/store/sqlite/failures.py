"""Translates SQLite's errors to errors with a cause and a remedy."""

import sqlite3
from pathlib import Path

from appliance.errors import ApplianceError, StoreError, Unavailable

_RETRY_S = 1.0
_RUNTIME: dict[int, tuple[type[ApplianceError], str]] = {
    sqlite3.SQLITE_FULL: (Unavailable, "the server's disk is full; nothing can be stored"),
    sqlite3.SQLITE_IOERR: (
        Unavailable,
        "the server's disk reports an error; nothing can be stored",
    ),
    sqlite3.SQLITE_READONLY: (
        Unavailable,
        "the server's database is read-only; nothing can be stored",
    ),
    sqlite3.SQLITE_CANTOPEN: (Unavailable, "the server's database can't be opened"),
    sqlite3.SQLITE_BUSY: (Unavailable, "the server's database is busy; retry in a moment"),
    sqlite3.SQLITE_LOCKED: (Unavailable, "the server's database is busy; retry in a moment"),
    sqlite3.SQLITE_CORRUPT: (StoreError, "the server's database is damaged; restore a backup"),
    sqlite3.SQLITE_NOTADB: (StoreError, "the server's database is damaged; restore a backup"),
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


def translate_runtime_error(error: sqlite3.Error) -> Exception:
    """The error to raise for an SQLite error at run time.

    Errors that are not about the disk or a lock (constraints, SQL) are returned unchanged.
    """
    kind, message = _RUNTIME.get(_primary_code(error), (None, ""))
    return kind(message, retry_after=_RETRY_S) if kind else error


def translate_open_error(error: sqlite3.Error, path: Path) -> StoreError:
    """The error to raise if the database at `path` can't be opened or migrated."""
    return StoreError(f"the database {path}: {_AT_OPEN.get(_primary_code(error), error)}")


def describe_write_failure(error: sqlite3.Error) -> str:
    """Why nothing can be written while the server runs, and the remedy."""
    return f"the database can't be written: {_AT_OPEN.get(_primary_code(error), error)}"


def _primary_code(error: sqlite3.Error) -> int:
    # Errors raised by Python's sqlite3 module itself have no code.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
