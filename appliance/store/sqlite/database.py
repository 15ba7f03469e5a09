"""The box's SQLite database: one writer, several readers, every commit on disk."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
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

WAIT_S = 10.0
_BUSY = "the box's database is busy; try again in a moment"
_CLOSED = "the box's database is closed: the box is shutting down"


class Database:
    """An open database. Made by `open`, ended by `close`; belongs to one event loop."""

    def __init__(
        self,
        writer: aiosqlite.Connection,
        readers: list[aiosqlite.Connection],
        lock: DatabaseLock | None,
    ) -> None:
        self._writer = writer
        self._turn = asyncio.Lock()
        self._readers = readers
        self._idle: asyncio.LifoQueue[aiosqlite.Connection] = asyncio.LifoQueue()
        for reader in readers:
            self._idle.put_nowait(reader)
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

        `exclusive` keeps a second box off the same file; without it a command may
        work beside a running box. `migrations` replaces the program's own. Raises
        StoreError, which says what is wrong with the file and what to do.
        """
        opening = asyncio.ensure_future(cls._open(path, readers, exclusive, migrations))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            await run_to_completion(_close_late(opening))
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
                await _set_up(connections[-1], query_only=mode)
        except BaseException as error:
            for connection in connections:
                await connection.close()
            if lock:
                lock.release()
            if isinstance(error, sqlite3.Error):
                raise failures.at_open(error, path) from error
            raise
        return cls(connections[0], connections[1:], lock)

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[Transaction, None]:
        """The one transaction that may write: committed at the end, undone by any exception.

        Cancellation undoes it too. Does not nest. Raises Unavailable if its turn does
        not come within WAIT_S, or if the disk refuses.
        """
        await self._take_turn()
        transaction = Transaction(self._writer)
        try:
            await transaction.begin()
            yield transaction
            await transaction.commit()
        except BaseException:
            await run_to_completion(transaction.rollback())
            raise
        finally:
            self._turn.release()

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[Connection, None]:
        """A connection to read what is committed; each statement sees its own state.

        Raises Unavailable if none is free within WAIT_S.
        """
        self._require_open()
        try:
            async with asyncio.timeout(WAIT_S):
                reader = await self._idle.get()
        except TimeoutError:
            raise Unavailable(_BUSY, retry_after=1.0) from None
        try:
            yield Connection(reader)
        finally:
            self._idle.put_nowait(reader)

    async def integrity_check(self) -> list[str]:
        """What SQLite finds wrong with the file and its references; empty if nothing is."""
        async with self.read() as connection:
            damage = await connection.column("PRAGMA integrity_check")
            orphans = await connection.column("PRAGMA foreign_key_check")
        found = [str(line) for line in damage if line != "ok"]
        return found + [f"a row of {table} refers to nothing" for table in sorted(set(orphans))]

    async def close(self) -> None:
        """Let the running transaction end, then close. A second call does nothing."""
        if not self._closed:
            await run_to_completion(self._close())

    async def _close(self) -> None:
        try:
            await self._take_turn()
        finally:
            self._closed = True
            for connection in (*self._readers, self._writer):
                await connection.close()
            if self._lock:
                self._lock.release()
        self._turn.release()

    async def _take_turn(self) -> None:
        self._require_open()
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turn.acquire()
        except TimeoutError:
            raise Unavailable(_BUSY, retry_after=1.0) from None
        if self._closed:
            self._turn.release()
            raise Unavailable(_CLOSED)

    def _require_open(self) -> None:
        if self._closed:
            raise Unavailable(_CLOSED)


async def _connect(path: Path) -> aiosqlite.Connection:
    return await aiosqlite.connect(path, isolation_level=None, timeout=BUSY_TIMEOUT_S)


async def _set_up(connection: aiosqlite.Connection, query_only: str) -> None:
    connection.row_factory = aiosqlite.Row
    await connection.execute_fetchall("PRAGMA foreign_keys = ON")
    await connection.execute_fetchall("PRAGMA synchronous = FULL")
    await connection.execute_fetchall(f"PRAGMA query_only = {query_only}")


async def _close_late(opening: "asyncio.Future[Database]") -> None:
    """Close what was opened for a caller that no longer waits for it."""
    await asyncio.wait({opening})
    if not opening.cancelled() and not opening.exception():
        await opening.result().close()
