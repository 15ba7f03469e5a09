"""Applies the migrations `migrations/NNNN_name.sql` in order.

Each migration and its record are one transaction: neither a crash nor a second process
can leave one half applied. A statement must end at the end of a line.

A migration that older programs can live with has the line `-- readable_since: NNNN`: a program
whose newest migration is NNNN or later still reads and writes the database correctly, so that an
upgrade can be undone after it has served. Without the line, older programs refuse the database.

`python -m appliance.store.sqlite.migrate > appliance/store/schema.sql` updates the dumped
schema after a migration was added.
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
_READABLE_SINCE = re.compile(r"^-- readable_since: (\d{4})$", re.MULTILINE)
_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    name TEXT PRIMARY KEY,
    checksum TEXT NOT NULL,
    applied_at REAL NOT NULL,
    program_version TEXT NOT NULL,
    readable_since TEXT
)
"""
_COLUMNS_OF_TABLE = "SELECT name FROM pragma_table_info('schema_migrations')"


class Migration(Struct, frozen=True):
    """One migration; `name` is the file name without its suffix."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def readable_since(self) -> str | None:
        """The number of the oldest newest migration of a program that can use the result."""
        found = _READABLE_SINCE.search(self.sql)
        return found[1] if found else None


class _AppliedMigration(Struct, frozen=True):
    name: str
    checksum: str
    program_version: str
    readable_since: str | None

    def is_usable_by(self, newest: str) -> bool:
        """Whether a program whose newest migration has this number can use the database."""
        return self.readable_since is not None and self.readable_since <= newest < self.name[:4]


def load_migrations(folder: Traversable | None = None) -> list[Migration]:
    """The migrations of this program, or of `folder`, in order."""
    source = folder or importlib.resources.files("appliance.store").joinpath("migrations")
    files = sorted(
        (entry for entry in source.iterdir() if _NAME.fullmatch(entry.name)),
        key=lambda entry: entry.name,
    )
    return [Migration(file.name.removesuffix(".sql"), file.read_text("utf-8")) for file in files]


def list_pending(
    connection: sqlite3.Connection, migrations: Sequence[Migration]
) -> list[Migration]:
    """The migrations not yet applied.

    Raises StoreError if the database is newer than what the program can use, or if the checksum
    of an applied migration differs from the program's.
    """
    records = {record.name: record for record in _list_applied(connection)}
    _require_not_newer(records, migrations)
    for migration in migrations:
        record = records.get(migration.name)
        if record and record.checksum != migration.checksum:
            raise StoreError(
                f"the migration {migration.name}, applied by version {record.program_version}, "
                f"differs from that of version {__version__}; reinstall the version that "
                "created this database, or restore a backup"
            )
    return [migration for migration in migrations if migration.name not in records]


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> list[str]:
    """Apply the pending migrations; returns their names.

    The connection must be in autocommit mode. Raises StoreError; a migration that fails is
    rolled back.
    """
    return [name for name in (_apply_next(connection, migrations) for _ in migrations) if name]


def dump_schema(connection: sqlite3.Connection) -> str:
    """The schema as SQL: tables, indexes, triggers, each sorted by name."""
    rows = connection.execute(
        "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' "
        "ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END, name"
    )
    return "\n\n".join(f"{sql.strip()};" for (sql,) in rows) + "\n"


def _apply_next(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> str | None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        # Inside the transaction: another process may have applied it just before.
        missing = list_pending(connection, migrations)
        if missing:
            _apply(connection, missing[0])
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
    return missing[0].name if missing else None


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    _create_table(connection)
    try:
        for statement in _split_statements(migration.sql):
            connection.execute(statement)
    except sqlite3.OperationalError as error:
        if _is_disk_error(error):
            raise
        raise _migration_error(migration, error) from error
    except sqlite3.Error as error:
        raise _migration_error(migration, error) from error
    connection.execute(
        "INSERT INTO schema_migrations "
        "(name, checksum, applied_at, program_version, readable_since) "
        "VALUES (:name, :checksum, :applied_at, :program_version, :readable_since)",
        {
            "name": migration.name,
            "checksum": migration.checksum,
            "applied_at": time.time(),
            "program_version": __version__,
            "readable_since": migration.readable_since,
        },
    )


def _create_table(connection: sqlite3.Connection) -> None:
    connection.execute(_CREATE_TABLE)
    if ("readable_since",) not in connection.execute(_COLUMNS_OF_TABLE).fetchall():
        connection.execute("ALTER TABLE schema_migrations ADD COLUMN readable_since TEXT")


def _migration_error(migration: Migration, error: sqlite3.Error) -> StoreError:
    return StoreError(
        f"the migration {migration.name} failed and was rolled back: {error}; "
        "the database is unchanged and still works with the version that created it"
    )


def _is_disk_error(error: sqlite3.Error) -> bool:
    disk_errors = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY)
    return error.sqlite_errorcode & 0xFF in disk_errors


def _split_statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement.strip()
            statement = ""
    if any(not line.lstrip().startswith("--") for line in statement.split("\n") if line.strip()):
        yield statement.strip()


def _list_applied(connection: sqlite3.Connection) -> list[_AppliedMigration]:
    columns = connection.execute(_COLUMNS_OF_TABLE).fetchall()
    if not columns:
        return []
    # Versions before 0011_task_leases did not store it.
    readable_since = "readable_since" if ("readable_since",) in columns else "NULL"
    rows = connection.execute(
        f"SELECT name, checksum, program_version, {readable_since} "  # noqa: S608
        "FROM schema_migrations ORDER BY name"
    )
    return [_AppliedMigration(*row) for row in rows]


def _require_not_newer(
    records: dict[str, _AppliedMigration], migrations: Sequence[Migration]
) -> None:
    known = {migration.name for migration in migrations}
    newest_known = max(known, default="")
    unusable = [
        record
        for name, record in records.items()
        if name not in known and not record.is_usable_by(newest_known[:4])
    ]
    if unusable:
        newest = unusable[-1]
        raise StoreError(
            f"the database was changed by version {newest.program_version} "
            f"(schema {newest.name}) and this program, version {__version__} "
            f"(schema {newest_known or 'none'}), is too old for it; "
            f"install version {newest.program_version} or later, or restore a backup"
        )


def main() -> None:
    """Print the schema after all migrations."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, load_migrations())
    sys.stdout.write(dump_schema(connection))
    connection.close()


if __name__ == "__main__":
    main()
