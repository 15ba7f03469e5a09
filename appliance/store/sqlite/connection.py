"""Queries on one connection, and statements inside a transaction."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, TypeVar

import aiosqlite

from appliance.store.database import Params
from appliance.store.parameters import to_columns
from appliance.store.rows import RowT, has_compressed, to_row
from appliance.store.sqlite import failures

T = TypeVar("T")


class Connection:
    """Implements store.database.Connection; raises sqlite3.IntegrityError for a violated
    constraint."""

    def __init__(self, raw: aiosqlite.Connection) -> None:
        self._raw = raw

    async def one(
        self, row_type: type[RowT], sql: str, params: Params | None = None
    ) -> RowT | None:
        """The first row, or None."""
        rows = await self._rows(sql, params)
        return (await _to_structs(row_type, rows[:1]))[0] if rows else None

    async def all(self, row_type: type[RowT], sql: str, params: Params | None = None) -> list[RowT]:
        """All rows; the SQL limits their number."""
        return await _to_structs(row_type, await self._rows(sql, params))

    async def scalar(self, sql: str, params: Params | None = None) -> Any:
        """The first column of the first row, or None."""
        rows = await self._rows(sql, params)
        return rows[0][0] if rows else None

    async def column(self, sql: str, params: Params | None = None) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in await self._rows(sql, params)]

    async def now(self) -> float:
        """The database's clock in epoch seconds. SQLite uses that of this host."""
        return time.time()

    async def run(self, sql: str) -> None:
        """Run a statement to its end without reading its rows, which may have no columns."""
        await self._rows(sql, None)

    async def _rows(self, sql: str, params: Params | None) -> list[sqlite3.Row]:
        rows: Iterable[sqlite3.Row] = await translate_errors(
            self._raw.execute_fetchall(sql, to_columns(params or {}))
        )
        return list(rows)


class Transaction(Connection):
    """Implements store.database.Transaction."""

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that changes rows; returns the number of changed rows."""
        cursor = await translate_errors(self._raw.execute(sql, to_columns(params or {})))
        return cursor.rowcount

    async def execute_each(self, sql: str, rows: Sequence[Params]) -> None:
        """Run a statement once for each set of parameters."""
        await translate_errors(self._raw.executemany(sql, [to_columns(row) for row in rows]))

    async def begin(self) -> None:
        await self.execute("BEGIN IMMEDIATE")

    async def commit(self) -> None:
        # Not the driver's commit(): it succeeds silently after SQLite has rolled back.
        await self.execute("COMMIT")

    async def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        await translate_errors(self._raw.rollback())


async def _to_structs(row_type: type[RowT], rows: Sequence[sqlite3.Row]) -> list[RowT]:
    """The Structs of rows; expanded in a thread where documents are compressed."""

    def convert() -> list[RowT]:
        return [to_row(row_type, row) for row in rows]

    if any(has_compressed(row_type, row) for row in rows):
        return await asyncio.to_thread(convert)
    return convert()


async def translate_errors(work: Awaitable[T]) -> T:
    """The result of `work`; raises SQLite's errors as errors of the appliance."""
    try:
        return await work
    except sqlite3.Error as error:
        translated = failures.translate_runtime_error(error)
        if translated is error:
            raise
        raise translated from error
