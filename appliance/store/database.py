"""What the rest of the appliance knows of its database: Protocols that each engine implements.

Queries are SQL that SQLite and PostgreSQL understand, with named parameters (`:name`); rows
become Structs by column name. Parameters are None (only where a column gives it its type), bool,
int, float, text, bytes and enums of text; `rows.to_json` and `documents.encode` make text of
nested values. A text with a NUL character is refused with InvalidInput before the database sees
it, since PostgreSQL stores none.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from appliance.store.rows import RowT

Params = Mapping[str, Any]


class Connection(Protocol):
    """Queries. Each statement sees one state of the database.

    Raises Unavailable or StoreError for disk errors and locks, and the driver's own error for a
    violated constraint.
    """

    async def one(
        self, row_type: type[RowT], sql: str, params: Params | None = None
    ) -> RowT | None:
        """The first row, or None."""
        ...

    async def all(self, row_type: type[RowT], sql: str, params: Params | None = None) -> list[RowT]:
        """All rows; the SQL limits their number."""
        ...

    async def scalar(self, sql: str, params: Params | None = None) -> Any:
        """The first column of the first row, or None."""
        ...

    async def column(self, sql: str, params: Params | None = None) -> list[Any]:
        """The first column of every row."""
        ...

    async def now(self) -> float:
        """The database's clock in epoch seconds."""
        ...


class Transaction(Connection, Protocol):
    """A Connection that can also write, inside `async with Database.write()`."""

    async def execute(self, sql: str, params: Params | None = None) -> int:
        """Run a statement that changes rows; returns the number of changed rows."""
        ...

    async def execute_each(self, sql: str, rows: Sequence[Params]) -> None:
        """Run a statement once for each set of parameters."""
        ...


class Database(Protocol):
    """An open database. Use it in one event loop only."""

    def write(self) -> AbstractAsyncContextManager[Transaction]:
        """A write transaction: committed at the end, rolled back on any exception.

        Of all processes only one is in such a transaction at a time, so what it has read does
        not change before it writes. It must not be nested. Raises Unavailable.
        """
        ...

    def read(self) -> AbstractAsyncContextManager[Connection]:
        """A connection for reading; each statement sees the latest committed state.

        Raises Unavailable if none is free in time.
        """
        ...

    def get_change_stamp(self) -> Hashable:
        """A value that differs after a commit of any process; costs no query.

        It can miss one: rely on it for a second at most.
        """
        ...

    async def reclaim_space(self) -> None:
        """Give space that deleted rows used back, in steps between which others can write."""
        ...

    async def integrity_check(self) -> list[str]:
        """The damage that is found in the database; empty if none."""
        ...

    async def close(self) -> None:
        """Wait for the running transaction, then close. A second call does nothing."""
        ...


class WriteProbe(Protocol):
    """Finds out in the background whether the database can be written."""

    @property
    def problem(self) -> str:
        """Why nothing can be stored, and the remedy; "" if the last check succeeded."""
        ...
