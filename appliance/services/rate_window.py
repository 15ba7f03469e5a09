"""Counts events per key over a sliding window, in the database: a restart clears nothing."""

import hashlib
from collections.abc import Callable

from appliance.store.sqlite.database import Connection, Transaction
from appliance.store.tables import rate_events
from appliance.store.tables.rate_events import EventCount, RateEvent


class RateWindow:
    """The events of the last `window_s` seconds, one row each (a sliding window log).

    Count and add in one write transaction to decide exactly under concurrency: only one of
    them runs at a time. `name` separates the windows in their table, `clock` gives epoch
    seconds.
    """

    def __init__(self, name: str, window_s: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._window_s = window_s
        self._clock = clock

    async def count(self, connection: Connection, key: str) -> EventCount:
        """The events of a key within the window."""
        return await rate_events.count(
            connection, self._name, _hash_key(key), after=self._clock() - self._window_s
        )

    async def add(self, tx: Transaction, key: str) -> RateEvent:
        """Add an event, and delete those that have left the window, of all keys."""
        now = self._clock()
        await rate_events.delete_until(tx, self._name, now - self._window_s)
        return await rate_events.add(tx, self._name, _hash_key(key), now)

    async def remove(self, tx: Transaction, event: RateEvent) -> None:
        """Delete one event, if it has not left the window."""
        await rate_events.delete(tx, self._name, event)

    async def reset(self, tx: Transaction, key: str) -> None:
        """Delete the events of a key."""
        await rate_events.delete_key(tx, self._name, _hash_key(key))


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
