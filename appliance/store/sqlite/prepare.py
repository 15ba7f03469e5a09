"""Prepares a database file: lock, WAL mode, migrations."""

import os
import sqlite3
import time
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from appliance.errors import StoreError
from appliance.store.sqlite import failures
from appliance.store.sqlite.lock import DatabaseLock
from appliance.store.sqlite.migrate import list_pending, load_migrations, migrate

BUSY_TIMEOUT_S = 5.0
_MIN_SQLITE = (3, 35, 0)
_RETRY_S = 0.05


def prepare(path: Path, exclusive: bool, migrations: Path | None) -> DatabaseLock | None:
    """Create or migrate the database; blocks. Returns the acquired lock if `exclusive`.

    Without `exclusive`, the lock is taken only to create or migrate the file, and released
    afterwards. Raises StoreError.
    """
    _require_sqlite()
    if exclusive:
        return _prepare_locked(path, migrations)
    if not _is_ready(path, migrations):
        _prepare_when_free(path, migrations)
    return None


def _require_sqlite() -> None:
    if sqlite3.sqlite_version_info < _MIN_SQLITE:
        needed = ".".join(str(part) for part in _MIN_SQLITE)
        raise StoreError(
            f"this Python has SQLite {sqlite3.sqlite_version}; {needed} or later is required; "
            "use a newer Python"
        )


def _prepare_locked(path: Path, migrations: Path | None) -> DatabaseLock:
    lock = DatabaseLock(path)
    lock.acquire()
    try:
        _migrate_file(path, migrations)
    except BaseException:
        lock.release()
        raise
    return lock


def _prepare_when_free(path: Path, migrations: Path | None) -> None:
    """Migrate, or wait while a starting server holds the lock and does so."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            _prepare_locked(path, migrations).release()
            return
        except StoreError:
            if _is_ready(path, migrations):
                return
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)


def _is_ready(path: Path, migrations: Path | None) -> bool:
    if not path.exists():
        return False
    with _open_connection(path) as connection:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        return mode == "wal" and not list_pending(connection, load_migrations(migrations))


def _migrate_file(path: Path, migrations: Path | None) -> None:
    _create_private(path)
    with _open_connection(path) as connection:
        # Takes effect in a new file only, and before WAL writes its first page.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(
                f"the file system of {path} does not support WAL (journal mode {mode}); "
                "put the data directory on a local disk"
            )
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, load_migrations(migrations))


def _create_private(path: Path) -> None:
    """Create the file with mode 0600; SQLite gives its WAL files the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"can't write the database {path}: {error.strerror}; "
            "check the owner and the permissions of the file and its folder"
        ) from error


@contextmanager
def _open_connection(path: Path) -> Generator[sqlite3.Connection]:
    try:
        connection = sqlite3.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)
        with closing(connection):
            yield connection
    except sqlite3.Error as error:
        raise failures.translate_open_error(error, path) from error
