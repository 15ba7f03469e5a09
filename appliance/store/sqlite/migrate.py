"""Brings a database to this program's schema: `migrations/NNNN_name.sql`, in order.

Each migration and its record are one transaction, so that neither a crash nor a
second process can leave one half done. Statements end at the end of a line.

`python -m appliance.store.sqlite.migrate > appliance/store/schema.sql` refreshes the
dumped schema after a migration was added.
"""

import hashlib
import importlib.resources
import re
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable

from msgspec import Struct

from appliance import __version__
from appliance.errors import StoreError

_NAME = re.compile(r"\d{4}_[a-z0-9_]+\.sql")
_RECORDS = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at REAL NOT NULL,
    program_version TEXT NOT NULL
)
"""


class Migration(Struct, frozen=True):
    """One step of the schema. `name` is the file's name without its ending."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


class _Record(Struct, frozen=True):
    name: str
    checksum: str
    program_version: str


def known_migrations(folder: Traversable | None = None) -> list[Migration]:
    """The migrations of this program (or of `folder`), in the order to apply them."""
    place = folder or importlib.resources.files("appliance.store").joinpath("migrations")
    files = sorted(
        (entry for entry in place.iterdir() if _NAME.fullmatch(entry.name)),
        key=lambda entry: entry.name,
    )
    return [Migration(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files]


def pending(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[Migration]:
    """The migrations not yet applied.

    Raises StoreError if the database is newer than the program, or if a migration
    that was applied is not the one that the program knows under its name.
    """
    records = {record.name: record for record in _records(connection)}
    _refuse_newer(records, migrations)
    for migration in migrations:
        record = records.get(migration.name)
        if record and record.checksum != migration.checksum:
            raise StoreError(
                f"the migration {migration.name} was applied by version {record.program_version} "
                f"in another form than version {__version__} knows it; "
                "reinstall the program that made this database, or restore a backup"
            )
    return [migration for migration in migrations if migration.name not in records]


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[str]:
    """Apply what is pending; returns the names applied.

    The connection must be in autocommit mode. Raises StoreError; a migration that
    fails leaves the database as it was before it.
    """
    return [name for name in (_apply_next(connection, migrations) for _ in migrations) if name]


def dump_schema(connection: sqlite3.Connection) -> str:
    """The schema as SQL text: tables, then indexes, then triggers, each by name."""
    rows = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END, name"
    )
    return "\n\n".join(f"{sql.strip()};" for (sql,) in rows) + "\n"


def _apply_next(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> str | None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Looked up inside the transaction: another process may just have applied it.
        missing = pending(connection, migrations)
        if missing:
            _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return missing[0].name if missing else None


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    connection.execute(_RECORDS)
    try:
        for statement in _statements(migration.sql):
            connection.execute(statement)
    except sqlite3.OperationalError as error:
        if _disk_trouble(error):
            raise
        raise _failed(migration, error) from error
    except sqlite3.Error as error:
        raise _failed(migration, error) from error
    connection.execute(
        "INSERT INTO schema_migrations (name, checksum, applied_at, program_version) "
        "VALUES (:name, :checksum, :applied_at, :program_version)",
        {
            "name": migration.name,
            "checksum": migration.checksum,
            "applied_at": time.time(),
            "program_version": __version__,
        },
    )


def _failed(migration: Migration, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the migration {migration.name} failed and was undone: {error}; "
        "the database is as it was, the version that made it still works with it"
    )


def _disk_trouble(error: sqlite3.Error) -> bool:
    trouble = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    return error.sqlite_errorcode & 0xFF in trouble


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if any(not line.lstrip().startswith("--") for line in statement.split("\n") if line.strip()):
        yield statement.strip()


def _records(connection: sqlite3.Connection) -> list[_Record]:
    table = connection.execute(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'"
    ).fetchone()
    if not table:
        return []
    rows = connection.execute(
        "SELECT name, checksum, program_version FROM schema_migrations ORDER BY name"
    )
    return [_Record(*row) for row in rows]


def _refuse_newer(records: dict[str, _Record], migrations: Sequence[Migration]) -> None:
    known = {migration.name for migration in migrations}
    unknown = [record for name, record in records.items() if name not in known]
    if unknown:
        newest = unknown[-1]
        raise StoreError(
            f"this database was made by version {newest.program_version} "
            f"(schema {newest.name}) and is newer than this program, version {__version__} "
            f"(schema {max(known, default='none')}); "
            f"install version {newest.program_version} or later, or restore a backup"
        )


def main() -> None:
    """Print the schema that all migrations make."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, known_migrations())
    sys.stdout.write(dump_schema(connection))
    connection.close()


if __name__ == "__main__":
    main()
