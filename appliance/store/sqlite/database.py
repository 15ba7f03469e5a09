"""The SQLite database: one writer, several readers, every commit synced to disk."""

import asyncio
import os
import sqlite3
from collections.abc import AsyncGenerator, Hashable
from contextlib import asynccontextmanager
from pathlib import Path

import aiosqlite

from appliance.errors import Unavailable
from appliance.spi.cancellation import run_to_completion
from appliance.store.sqlite import failures
from appliance.store.sqlite.connection import Connection, Transaction
from appliance.store.sqlite.lock import DatabaseLock
from appliance.store.sqlite.prepare import BUSY_TIMEOUT_S, prepare

__all__ = ["Connection", "Database", "Transaction"]

TIMEOUT_S = 10.0
_INCREMENTAL = 2
# Few, so that other writers hardly wait.
_PAGES_PER_STEP = 1000
# What the write-ahead log keeps on disk after a checkpoint; a long reader can make it longer.
_LOG_BYTES = 16 * 1024 * 1024
_BUSY = "the server's database is busy; retry in a moment"
_CLOSED = "the server is shutting down; its database is closed"


class Database:
    """Implements store.database.Database; created by `open`."""

    def __init__(
        self,
        path: Path,
        writer: aiosqlite.Connection,
        readers: list[aiosqlite.Connection],
        lock: DatabaseLock | None,
    ) -> None:
        self._wal = path.with_name(path.name + "-wal")
        self._writer = writer
        self._writer_lock = asyncio.Lock()
        self._readers = readers
        self._idle_readers: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle_readers.put_nowait(reader)
        self._lock = lock
        self._closed = False

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        readers: int = 3,
        exclusive: bool = True,
        migrations: Path | None = None,
    ) -> "Database":
        """Open the database at `path`, creating and migrating it as needed.

        `exclusive` prevents a second server on the same file; commands open it without, to
        work beside a running server. `migrations` replaces the program's own. Raises
        StoreError with the cause and the remedy.
        """
        opening = asyncio.ensure_future(cls._open(path, readers, exclusive, migrations))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await run_to_completion(_close_after_opening(opening))
            raise

    @classmethod
    async def _open(
        cls, path: Path, readers: int, exclusive: bool, migrations: Path | None
    ) -> "Database":
        lock = await asyncio.to_thread(prepare, path, exclusive, migrations)
        connections: list[aiosqlite.Connection] = []
        try:
            for mode in ("OFF", *["ON"] * readers):
                connections.append(await _connect(path))
                await _configure(connections[-1], query_only=mode)
        except BaseException as error:
            for connection in connections:
                await connection.close()
            if lock:
                lock.release()
            if isinstance(error, sqlite3.Error):
                raise failures.translate_open_error(error, path) from error
            raise
        return cls(path, connections[0], connections[1:], lock)

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[Transaction, None]:
        """A write transaction: committed at the end, rolled back on any exception.

        Only one runs at a time; it must not be nested. Cancellation rolls back, too. Raises
        Unavailable if the writer is not free within TIMEOUT_S, or for a disk error.
        """
        await self._acquire_writer()
        transaction = Transaction(self._writer)
        try:
            await transaction.begin()
            yield transaction
            await transaction.commit()
        except BaseException:
            await run_to_completion(transaction.rollback())
            raise
        finally:
            self._writer_lock.release()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection, None]:
        """A read-only connection; each statement sees the latest committed state.

        Raises Unavailable if none is free within TIMEOUT_S.
        """
        self._require_open()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader = await self._idle_readers.get()
        except TimeoutError:
            raise Unavailable(_BUSY, retry_after=1.0) from None
        try:
            yield Connection(reader)
        finally:
            self._idle_readers.put_nowait(reader)

    def get_change_stamp(self) -> Hashable:
        """Modification time and size of the write-ahead log, which change with each commit."""
        try:
            status = os.stat(self._wal)  # noqa: PTH116 (per request: Path.stat takes twice as long)
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_size

    async def reclaim_space(self) -> None:
        """Shrink the file if a tenth of it is free.

        Databases of the first versions have no incremental vacuum: they reuse free pages instead.
        """
        if not await self._is_shrinkable():
            return
        free = await self._reclaim_pages()
        while free and free > (free := await self._reclaim_pages()):
            continue
        await self.truncate_log()

    async def _is_shrinkable(self) -> bool:
        async with self.read() as connection:
            incremental = await connection.scalar("PRAGMA auto_vacuum") == _INCREMENTAL
            free = int(await connection.scalar("PRAGMA freelist_count"))
            pages = int(await connection.scalar("PRAGMA page_count"))
        return incremental and free * 10 > pages

    async def _reclaim_pages(self) -> int:
        """Give _PAGES_PER_STEP free pages back to the file system; returns how many are left."""
        await self._acquire_writer()
        try:
            connection = Connection(self._writer)
            await connection.run(f"PRAGMA incremental_vacuum({_PAGES_PER_STEP})")
            return int(await connection.scalar("PRAGMA freelist_count"))
        finally:
            self._writer_lock.release()

    async def truncate_log(self) -> None:
        """Move the write-ahead log into the file, as far as readers allow, and truncate it."""
        await self._acquire_writer()
        try:
            await Connection(self._writer).run("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self._writer_lock.release()

    async def integrity_check(self) -> list[str]:
        """The problems that SQLite finds in the file and its foreign keys; empty if none."""
        async with self.read() as connection:
            damage = await connection.column("PRAGMA integrity_check")
            orphans = await connection.column("PRAGMA foreign_key_check")
        problems = [str(line) for line in damage if line != "ok"]
        problems += [f"{table}: a foreign key has no parent row" for table in sorted(set(orphans))]
        return problems

    async def close(self) -> None:
        """Wait for the running transaction, then close. A second call does nothing."""
        if not self._closed:
            await run_to_completion(self._close())

    async def _close(self) -> None:
        try:
            await self._acquire_writer()
        finally:
            self._closed = True
            for connection in (*self._readers, self._writer):
                await connection.close()
            if self._lock:
                self._lock.release()
        self._writer_lock.release()

    async def _acquire_writer(self) -> None:
        self._require_open()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self._writer_lock.acquire()
        except TimeoutError:
            raise Unavailable(_BUSY, retry_after=1.0) from None
        if self._closed:
            self._writer_lock.release()
            raise Unavailable(_CLOSED)

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable(_CLOSED)


async def _connect(path: Path) -> aiosqlite.Connection:
    return await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)


async def _configure(connection: aiosqlite.Connection, query_only: str) -> None:
    connection.row_factory = aiosqlite.Row
    await connection.execute_fetchall("PRAGMA foreign_keys = ON")
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    await connection.execute_fetchall(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    await connection.execute_fetchall(f"PRAGMA query_only = {query_only}")


async def _close_after_opening(opening: "asyncio.Future[Database]") -> None:
    """Close a database whose caller was cancelled while it was being opened."""
    await asyncio.wait({opening})
    if not opening.cancelled() and not opening.exception():
        await opening.result().close()
