"""The database: transactions, readers, cancellation, damaged files."""

import asyncio
import os
import sqlite3
import stat
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import Struct

from appliance.errors import InvalidInput, StoreError, Unavailable
from appliance.store.sqlite import database
from appliance.store.sqlite.database import Database


class Item(Struct):
    id: int
    name: str | None
    ready: bool
    tags: tuple[str, ...]
    extra: dict[str, int] | None = None
    weight: float | None = None


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "migrations"
    folder.mkdir()
    (folder / "0001_items.sql").write_text(
        """
        CREATE TABLE items (
            id INTEGER PRIMARY KEY, name TEXT UNIQUE, ready INTEGER NOT NULL DEFAULT 0,
            tags TEXT NOT NULL DEFAULT '[]', extra TEXT, weight REAL
        );
        CREATE TABLE parts (item_id INTEGER NOT NULL REFERENCES items (id));
        """
    )
    return folder


@pytest.fixture
async def db(tmp_path: Path, migrations: Path) -> AsyncGenerator[Database, None]:
    opened = await Database.open(tmp_path / "appliance.db", migrations=migrations)
    yield opened
    await opened.close()


async def _add(db: Database, name: str) -> int:
    async with db.write() as tx:
        return await tx.execute("INSERT INTO items (name) VALUES (:name)", {"name": name})


async def _names(db: Database) -> list[str]:
    async with db.read() as connection:
        return await connection.column("SELECT name FROM items ORDER BY id")


async def test_rows_become_structs_with_bools_json_and_plain_text(db: Database):
    async with db.write() as tx:
        await tx.execute(
            "INSERT INTO items (name, ready, tags, extra, weight) "
            "VALUES ('null', 1, :tags, :extra, 3)",
            {"tags": '["a","b"]', "extra": '{"x":1}'},
        )
        await tx.execute("INSERT INTO items (name) VALUES (NULL)")
    async with db.read() as connection:
        assert await connection.all(Item, "SELECT * FROM items ORDER BY id") == [
            Item(1, "null", True, ("a", "b"), {"x": 1}, 3.0),
            Item(2, None, False, ()),
        ]
        assert await connection.one(Item, "SELECT * FROM items WHERE id = 9") is None
        assert await connection.scalar("SELECT COUNT(*) FROM items") == 2
        assert await connection.scalar("SELECT id FROM items WHERE id = 9") is None


async def test_parameters_when_bool_or_nul_then_zero_or_one_and_refused_by_name(db: Database):
    async with db.write() as tx:
        row = {"name": "a", "ready": True}
        await tx.execute_each("INSERT INTO items (name, ready) VALUES (:name, :ready)", [row])
        assert await tx.scalar("SELECT TYPEOF(:ready)", row) == "integer"
        assert await tx.scalar("SELECT ready FROM items WHERE name = :name", row) == 1
        for run in (tx.execute, tx.scalar):
            with pytest.raises(InvalidInput, match="name: contains a NUL"):
                await run("SELECT 1 FROM items WHERE name = :name", {"name": "a\0b"})


async def test_change_stamp_when_another_process_commits_then_it_differs(
    db: Database, tmp_path: Path, migrations: Path
):
    before = db.get_change_stamp()
    assert db.get_change_stamp() == before
    other = await Database.open(tmp_path / "appliance.db", exclusive=False, migrations=migrations)
    await _add(other, "new")
    assert db.get_change_stamp() != before
    await other.close()


async def test_settings_of_the_file_are_the_durable_ones(db: Database, tmp_path: Path):
    async with db.write() as tx:
        assert await tx.scalar("PRAGMA journal_mode") == "wal"
        assert await tx.scalar("PRAGMA synchronous") == 2
        assert await tx.scalar("PRAGMA foreign_keys") == 1
        assert await tx.scalar("PRAGMA auto_vacuum") == 2
        assert await tx.scalar("PRAGMA journal_size_limit") == 16 * 1024 * 1024
    async with db.read() as connection:
        assert await connection.scalar("PRAGMA query_only") == 1
    for name in ("appliance.db", "appliance.db-wal", "appliance.db.lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


async def test_write_when_the_block_raises_then_nothing_is_kept(db: Database):
    async def add_and_break() -> None:
        async with db.write() as tx:
            await tx.execute("INSERT INTO items (name) VALUES ('a')")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await add_and_break()
    assert await _names(db) == []
    assert await _add(db, "b") == 1


async def test_write_when_a_constraint_breaks_then_sqlite_s_error_is_raised(db: Database):
    await _add(db, "a")
    with pytest.raises(sqlite3.IntegrityError):
        await _add(db, "a")
    with pytest.raises(sqlite3.IntegrityError):
        async with db.write() as tx:
            await tx.execute("INSERT INTO parts VALUES (77)")
    assert await _names(db) == ["a"]


async def test_write_when_cancelled_anywhere_then_no_transaction_stays_open(db: Database):
    # Each round cancels one step later: waiting, beginning, writing, committing, after it.
    for steps in range(40):
        work = asyncio.create_task(_add(db, f"n{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        work.cancel()
        await asyncio.wait({work})
        async with asyncio.timeout(5), db.write() as tx:
            assert await tx.scalar("SELECT 1") == 1
    assert await db.integrity_check() == []


async def test_write_when_cancelled_twice_then_the_rollback_still_ends(db: Database):
    inside = asyncio.Event()

    async def hold() -> None:
        async with db.write() as tx:
            await tx.execute("INSERT INTO items (name) VALUES ('lost')")
            inside.set()
            await asyncio.sleep(60)

    work = asyncio.create_task(hold())
    await inside.wait()
    work.cancel()
    await asyncio.sleep(0)
    work.cancel()
    await asyncio.wait({work})
    await _add(db, "kept")
    assert await _names(db) == ["kept"]


async def test_write_when_many_at_once_then_each_is_alone_and_in_order(db: Database):
    async def increment() -> None:
        async with db.write() as tx:
            seen = await tx.scalar("SELECT weight FROM items WHERE name = 'n'")
            await asyncio.sleep(0)
            await tx.execute("UPDATE items SET weight = :weight", {"weight": seen + 1})

    async with db.write() as tx:
        await tx.execute("INSERT INTO items (name, weight) VALUES ('n', 0)")
    await asyncio.gather(*(increment() for _ in range(50)))
    async with db.read() as connection:
        assert await connection.scalar("SELECT weight FROM items") == 50


async def test_write_when_the_writer_is_not_free_then_unavailable(
    db: Database, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "TIMEOUT_S", 0.05)
    async with db.write():
        with pytest.raises(Unavailable, match="busy") as caught:
            await _add(db, "a")
    assert caught.value.retry_after
    assert await _add(db, "a") == 1


async def test_read_when_all_readers_are_taken_then_unavailable(
    tmp_path: Path, migrations: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(database, "TIMEOUT_S", 0.05)
    db = await Database.open(tmp_path / "appliance.db", readers=1, migrations=migrations)
    async with db.read():
        with pytest.raises(Unavailable, match="busy"):
            await _names(db)
    assert await _names(db) == []
    await db.close()


async def test_read_beside_a_writer_sees_only_what_is_committed(db: Database):
    async with db.write() as tx:
        await tx.execute("INSERT INTO items (name) VALUES ('a')")
        assert await _names(db) == []
    assert await _names(db) == ["a"]


async def test_read_when_it_tries_to_write_then_refused(db: Database):
    async with db.read() as connection:
        with pytest.raises(Unavailable, match="read-only"):
            await connection.scalar("INSERT INTO items (name) VALUES ('a') RETURNING id")


async def test_disk_full_when_writing_then_unavailable_and_the_store_goes_on(db: Database):
    async with db.write() as tx:
        pages = await tx.scalar("PRAGMA page_count")
        await tx.scalar(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Unavailable, match="disk is full"):
        await _add(db, "x" * 100_000)
    async with db.write() as tx:
        await tx.scalar("PRAGMA max_page_count = 1000000")
    await _add(db, "fits")
    assert await _names(db) == ["fits"]


async def test_integrity_check_when_a_reference_is_broken_then_it_is_named(
    db: Database, tmp_path: Path
):
    assert await db.integrity_check() == []
    other = sqlite3.connect(tmp_path / "appliance.db")
    other.execute("INSERT INTO parts VALUES (77)")
    other.commit()
    other.close()
    assert await db.integrity_check() == ["parts: a foreign key has no parent row"]


async def test_open_when_another_process_has_it_then_its_pid_is_named(
    db: Database, tmp_path: Path, migrations: Path
):
    with pytest.raises(StoreError, match=f"process {os.getpid()}"):
        await Database.open(tmp_path / "appliance.db", migrations=migrations)
    second = await Database.open(tmp_path / "appliance.db", exclusive=False, migrations=migrations)
    await _add(second, "from the command line")
    await second.close()
    assert await _names(db) == ["from the command line"]


async def test_open_when_the_holder_was_killed_then_the_lock_is_free(
    tmp_path: Path, migrations: Path
):
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from appliance.store.sqlite.database import Database\n"
        "async def main():\n"
        "    db = await Database.open(Path(sys.argv[1]), migrations=Path(sys.argv[2]))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "appliance.db"
    argv = [sys.executable, "-c", script, str(path), str(migrations)]
    child = await asyncio.create_subprocess_exec(*argv)
    assert await child.wait() == -9
    db = await Database.open(path, migrations=migrations)
    await db.close()


async def test_open_when_not_a_database_then_store_error(tmp_path: Path):
    path = tmp_path / "appliance.db"
    path.write_bytes(b"this is no database, but it is long enough to look at" * 50)
    with pytest.raises(StoreError, match="not a database"):
        await Database.open(path)


async def test_open_when_truncated_then_store_error(tmp_path: Path, migrations: Path):
    path = tmp_path / "appliance.db"
    db = await Database.open(path, migrations=migrations)
    await db.close()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreError, match=r"appliance\.db"):
        await Database.open(path, migrations=migrations)


async def test_open_when_the_folder_is_missing_then_store_error(tmp_path: Path):
    with pytest.raises(StoreError, match="check the owner"):
        await Database.open(tmp_path / "nowhere" / "appliance.db")


async def test_open_when_the_path_is_a_folder_then_store_error(tmp_path: Path):
    with pytest.raises(StoreError, match="check the owner"):
        await Database.open(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_open_when_read_only_then_store_error(tmp_path: Path, migrations: Path):
    path = tmp_path / "appliance.db"
    db = await Database.open(path, migrations=migrations)
    await db.close()
    path.chmod(0o400)
    with pytest.raises(StoreError, match="check the owner"):
        await Database.open(path, migrations=migrations)


async def test_open_when_cancelled_then_nothing_stays_open(tmp_path: Path, migrations: Path):
    for steps in (0, 1, 2, 5, 20):
        opening = asyncio.create_task(
            Database.open(tmp_path / "appliance.db", migrations=migrations)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait({opening})
        assert opening.cancelled()
    db = await Database.open(tmp_path / "appliance.db", migrations=migrations)
    await db.close()


async def test_close_when_used_after_then_unavailable(tmp_path: Path, migrations: Path):
    db = await Database.open(tmp_path / "appliance.db", migrations=migrations)
    await db.close()
    await db.close()
    with pytest.raises(Unavailable, match="closed"):
        await _names(db)
    with pytest.raises(Unavailable, match="closed"):
        await _add(db, "a")


async def test_close_when_a_transaction_runs_then_it_ends_first(tmp_path: Path, migrations: Path):
    db = await Database.open(tmp_path / "appliance.db", migrations=migrations)
    writes = [asyncio.create_task(_add(db, f"n{at}")) for at in range(5)]
    await asyncio.sleep(0)
    await db.close()
    ended = await asyncio.gather(*writes, return_exceptions=True)
    db = await Database.open(tmp_path / "appliance.db", migrations=migrations)
    assert len(await _names(db)) == ended.count(1)
    assert all(end == 1 or isinstance(end, Unavailable) for end in ended)
    await db.close()
