"""Migrations: order, atomicity, concurrency, and versions that do not fit."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__
from appliance.errors import StoreError
from appliance.store.sqlite import migrate
from appliance.store.sqlite.database import Database
from appliance.store.sqlite.migrate import Migration

FIRST = Migration("0001_first", "-- a comment; with a semicolon\nCREATE TABLE a (x);\n")
SECOND = Migration(
    "0002_second",
    """
    CREATE TABLE b (x);
    CREATE TRIGGER b_grows AFTER INSERT ON b BEGIN
        INSERT INTO a VALUES (NEW.x);
    END;
    INSERT INTO b VALUES ('one; two');
    -- the end
    """,
)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    yield opened
    opened.close()


def _tables(connection: sqlite3.Connection) -> set[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return {name for (name,) in rows}


def test_migrate_when_fresh_then_all_in_order_and_recorded(connection: sqlite3.Connection):
    assert migrate.migrate(connection, [FIRST, SECOND]) == ["0001_first", "0002_second"]
    records = connection.execute("SELECT * FROM schema_migrations ORDER BY name").fetchall()
    assert [(name, checksum) for name, checksum, *_ in records] == [
        ("0001_first", FIRST.checksum),
        ("0002_second", SECOND.checksum),
    ]
    assert {(version, since) for *_, version, since in records} == {(__version__, None)}
    assert connection.execute("SELECT x FROM a").fetchall() == [("one; two",)]


def test_migrate_when_repeated_then_nothing_happens(connection: sqlite3.Connection):
    migrate.migrate(connection, [FIRST])
    assert migrate.migrate(connection, [FIRST]) == []
    assert migrate.migrate(connection, [FIRST, SECOND]) == ["0002_second"]


def test_migrate_when_a_statement_fails_then_the_whole_migration_is_undone(
    connection: sqlite3.Connection,
):
    broken = Migration("0002_broken", "CREATE TABLE b (x);\nINSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(StoreError, match=r"0002_broken failed and was rolled back: no such table"):
        migrate.migrate(connection, [FIRST, broken])
    assert _tables(connection) == {"a", "schema_migrations"}
    assert not connection.in_transaction
    assert migrate.migrate(connection, [FIRST, SECOND]) == ["0002_second"]


def test_migrate_when_the_last_statement_is_cut_off_then_it_fails(connection: sqlite3.Connection):
    with pytest.raises(StoreError, match="incomplete input"):
        migrate.migrate(
            connection, [Migration("0001_cut", "CREATE TABLE a (x);\nCREATE TABLE b (")]
        )
    assert _tables(connection) == set()


def test_migrate_when_the_database_is_newer_then_both_versions_are_named(
    connection: sqlite3.Connection,
):
    migrate.migrate(connection, [FIRST, SECOND])
    connection.execute("UPDATE schema_migrations SET program_version = '9.8.7'")
    with pytest.raises(StoreError) as caught:
        migrate.migrate(connection, [FIRST])
    for part in ("9.8.7", "too old", "0002_second", __version__, "0001_first"):
        assert part in caught.value.message


def test_migrate_when_an_applied_migration_changed_then_refused(connection: sqlite3.Connection):
    migrate.migrate(connection, [FIRST])
    changed = Migration("0001_first", FIRST.sql + "CREATE TABLE c (x);\n")
    with pytest.raises(StoreError, match="0001_first, applied by"):
        migrate.migrate(connection, [changed])
    assert "c" not in _tables(connection)


def test_schema_sql_when_dumped_then_equal_to_the_migrations():
    dumped = subprocess.run(
        [sys.executable, "-m", "appliance.store.sqlite.migrate"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    written = Path(migrate.__file__).parents[1].joinpath("schema.sql").read_text("utf-8")
    assert dumped.stdout == written, (
        "update it: python -m appliance.store.sqlite.migrate > appliance/store/schema.sql"
    )


def test_migrations_when_loaded_then_numbered_without_a_gap():
    numbers = [int(migration.name[:4]) for migration in migrate.load_migrations()]
    assert numbers == list(range(1, len(numbers) + 1))


async def test_open_when_many_processes_migrate_at_once_then_each_step_ran_once(tmp_path: Path):
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from appliance.store.sqlite.database import Database\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]), exclusive=False)\n"
        "    assert await db.integrity_check() == []\n"
        "    await db.close()\n"
        "asyncio.run(main())\n"
    )
    path = str(tmp_path / "appliance.db")
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, path) for _ in range(4)
    ]
    assert [await child.wait() for child in children] == [0, 0, 0, 0]
    db = await Database.open(Path(path))
    async with db.read() as connection:
        count = await connection.scalar("SELECT COUNT(*) FROM schema_migrations")
    assert count == len(migrate.load_migrations())
    await db.close()


def test_migrate_when_the_database_is_newer_and_allows_it_then_the_older_program_works(
    connection: sqlite3.Connection,
):
    allowed = Migration("0003_third", "-- readable_since: 0001\nCREATE TABLE c (x);\n")
    demanding = Migration("0004_fourth", "-- readable_since: 0003\nCREATE TABLE d (x);\n")
    second = Migration("0002_second", f"-- readable_since: 0001\n{SECOND.sql}")
    migrate.migrate(connection, [FIRST, second, allowed])
    assert migrate.migrate(connection, [FIRST]) == []
    migrate.migrate(connection, [FIRST, second, allowed, demanding])
    for programs in ([FIRST], [FIRST, second]):
        with pytest.raises(StoreError, match=r"schema 0004_fourth\) and this program"):
            migrate.migrate(connection, programs)
    assert migrate.migrate(connection, [FIRST, second, allowed]) == []


def test_migrate_when_the_record_is_of_an_older_version_then_the_column_is_added(
    connection: sqlite3.Connection,
):
    migrate.migrate(connection, [FIRST])
    connection.execute("ALTER TABLE schema_migrations DROP COLUMN readable_since")
    with pytest.raises(StoreError, match="too old"):
        migrate.list_pending(connection, [])
    assert migrate.migrate(connection, [FIRST, SECOND]) == ["0002_second"]


async def test_open_beside_an_older_running_server_then_the_command_waits_and_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("appliance.store.sqlite.prepare.BUSY_TIMEOUT_S", 0.1)
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_first.sql").write_text(FIRST.sql)
    running = await Database.open(tmp_path / "appliance.db", migrations=folder)
    (folder / "0002_second.sql").write_text(SECOND.sql)
    with pytest.raises(StoreError, match="in use by another"):
        await Database.open(tmp_path / "appliance.db", exclusive=False, migrations=folder)
    await running.close()
    second = await Database.open(tmp_path / "appliance.db", exclusive=False, migrations=folder)
    await second.close()
