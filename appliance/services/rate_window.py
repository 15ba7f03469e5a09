"""Rate windows: at most so many events per key in any window of so many seconds.

A window is a log of its events, so the limit holds for every interval of that length (a sliding
window log), and exactly so under concurrency: whether an event fits is decided and counted in one
step. A window of more than a minute is in the database and survives a restart; for a shorter one,
which a restart can't prolong by much, MemoryRateWindow costs a request about a microsecond.
"""

import asyncio
import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable
from math import floor
from typing import NamedTuple, Protocol

import structlog

from appliance.domain.rate_policy import RateLimit
from appliance.errors import ApplianceError
from appliance.spi.cancellation import run_deferring_cancellation, run_to_completion
from appliance.store.database import Connection, Database, Transaction
from appliance.store.tables import rate_events
from appliance.store.tables.rate_events import EventCount, RateEvent

_MAX_MEMORY_S = 60.0
_MAX_KEYS = 20_000
# Beyond so many, the events of a 128th of the window leave it together, with the last of them.
_MAX_GROUPS = 128

log = structlog.get_logger()


class Decision(NamedTuple):
    """Whether an event fits. `wait_s`: seconds until it will; 0 if it was counted.

    `remaining` more fit now. `reset_at` is when the oldest one leaves the window, in the seconds
    of the clock. `event` is that of a window in the database.
    """

    remaining: int
    reset_at: float
    wait_s: float = 0.0
    event: RateEvent | None = None

    @property
    def counted(self) -> bool:
        return self.wait_s == 0.0


class RateWindow(Protocol):
    """A window of either kind."""

    async def take(self, key: str, limit: RateLimit) -> Decision:
        """Count an event of the key if it fits."""
        ...

    async def give_back(self, key: str, decision: Decision) -> None:
        """Count an event no longer, which did not take place."""
        ...


class RateWindows:
    """Opens windows, each of the kind that its length requires. `clock` gives epoch seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    def open(self, name: str, window_s: float) -> RateWindow:
        """A window in memory, or in the database if it is longer than a minute."""
        if window_s <= _MAX_MEMORY_S:
            return MemoryRateWindow(window_s, self._clock)
        return StoredRateWindow(name, window_s, self._clock, self._db)


class MemoryRateWindow:
    """A window in memory, for the `max_keys` most recent keys. `clock` gives seconds."""

    def __init__(
        self,
        window_s: float,
        clock: Callable[[], float] = time.time,
        max_keys: int = _MAX_KEYS,
    ) -> None:
        self._window_s = window_s
        self._clock = clock
        self._max_keys = max_keys
        self._logs: OrderedDict[str, _Log] = OrderedDict()

    async def take(self, key: str, limit: RateLimit) -> Decision:
        """Count an event of the key if it fits."""
        now = self._clock()
        events = self._logs.get(key)
        if events is None:
            events = self._logs[key] = _Log(self._window_s, now, limit.burst)
            if len(self._logs) > self._max_keys:
                self._logs.popitem(last=False)
        else:
            self._logs.move_to_end(key)
        return events.take(now, limit)

    async def give_back(self, key: str, decision: Decision) -> None:  # noqa: ARG002
        """Count the newest event of the key no longer."""
        events = self._logs.get(key)
        if events is not None:
            events.remove_newest()

    def peek(self, key: str, limit: RateLimit) -> Decision:
        """The state of the key, without counting an event."""
        now = self._clock()
        events = self._logs.get(key) or _Log(self._window_s, now, 0)
        return events.state(now, limit)


class _Log:
    """The events of one key: times, and how many each of them stands for."""

    __slots__ = ("_counts", "_refilled_at", "_times", "_tokens", "_used", "_window_s")

    def __init__(self, window_s: float, now: float, burst: int) -> None:
        self._window_s = window_s
        self._times = array("d")
        self._counts = array("L")
        self._used = 0
        self._tokens = float(burst)
        self._refilled_at = now

    def take(self, now: float, limit: RateLimit) -> Decision:
        times = self._times
        if times and (times[0] <= now - self._window_s or now < times[-1]):
            self._expire(now)
        if self._used >= limit.limit:
            return Decision(0, self._reset_at(now), self._wait_s(now, limit.limit))
        if limit.burst:
            rate = limit.limit / self._window_s
            tokens = self._tokens
            if now > self._refilled_at:
                tokens = min(limit.burst, tokens + (now - self._refilled_at) * rate)
            self._refilled_at = now
            if tokens < 1.0:
                self._tokens = tokens
                wait_s = (1.0 - tokens) / rate
                return Decision(limit.limit - self._used, self._reset_at(now), wait_s)
            self._tokens = tokens - 1.0
        self._add(now, limit.limit)
        return Decision(limit.limit - self._used, times[0] + self._window_s)

    def state(self, now: float, limit: RateLimit) -> Decision:
        self._expire(now)
        return Decision(max(0, limit.limit - self._used), self._reset_at(now))

    def remove_newest(self) -> None:
        if self._counts:
            self._used -= 1
            self._tokens += 1.0
            self._counts[-1] -= 1
            if not self._counts[-1]:
                self._times.pop()
                self._counts.pop()

    def _add(self, now: float, limit: int) -> None:
        self._used += 1
        if limit > _MAX_GROUPS and self._times:
            group_s = self._window_s / _MAX_GROUPS
            if floor(now / group_s) == floor(self._times[-1] / group_s):
                self._times[-1] = now
                self._counts[-1] += 1
                return
        self._times.append(now)
        self._counts.append(1)

    def _expire(self, now: float) -> None:
        times = self._times
        if not times:
            return
        if now < times[-1]:
            # The clock was set back: later events would stay for longer than a window.
            expired = len(times)
        else:
            start, expired = now - self._window_s, 0
            while expired < len(times) and times[expired] <= start:
                expired += 1
        if expired:
            self._used -= sum(self._counts[:expired])
            del self._times[:expired], self._counts[:expired]

    def _reset_at(self, now: float) -> float:
        return (self._times[0] if self._times else now) + self._window_s

    def _wait_s(self, now: float, limit: int) -> float:
        """Seconds until fewer than `limit` events, which may have been lowered, are left."""
        left = self._used
        for at, count in zip(self._times, self._counts, strict=True):
            left -= count
            if left < limit:
                return at + self._window_s - now
        return self._window_s


class StoredRateWindow:
    """A window in the database, one row per event.

    `take` has a transaction of its own. To decide by several windows in one transaction, count
    and add in it: only one write transaction runs at a time. `name` separates the windows in
    their table; `clock` gives epoch seconds.
    """

    def __init__(
        self, name: str, window_s: float, clock: Callable[[], float], db: Database
    ) -> None:
        self._name = name
        self._window_s = window_s
        self._clock = clock
        self._db = db

    async def take(self, key: str, limit: RateLimit) -> Decision:
        """Count an event of the key if it fits; if cancelled, none. Bursts are not limited."""
        decision, cancelled = await run_deferring_cancellation(self._take(key, limit.limit))
        if cancelled:
            await self.give_back(key, decision)
            raise asyncio.CancelledError
        return decision

    async def give_back(self, key: str, decision: Decision) -> None:  # noqa: ARG002
        """Count the event no longer, even if cancelled. If the database refuses, it counts."""
        if decision.event is not None:
            await run_to_completion(self._give_back(decision.event))

    async def count(self, connection: Connection, key: str) -> EventCount:
        """The events of a key within the window.

        Later ones, from before the clock was set back, would stay for longer than a window.
        """
        now = self._clock()
        return await rate_events.count(
            connection, self._name, _hash_key(key), after=now - self._window_s, until=now
        )

    async def add(self, tx: Transaction, key: str) -> RateEvent:
        """Add an event, and delete those that have left the window, of all keys."""
        now = self._clock()
        await rate_events.delete_until(tx, self._name, now - self._window_s)
        return await rate_events.add(tx, self._name, _hash_key(key), now)

    async def reset(self, tx: Transaction, key: str) -> None:
        """Delete the events of a key."""
        await rate_events.delete_key(tx, self._name, _hash_key(key))

    async def _take(self, key: str, limit: int) -> Decision:
        async with self._db.write() as tx:
            counted, now = await self.count(tx, key), self._clock()
            oldest_at = now if counted.oldest_at is None else counted.oldest_at
            reset_at = oldest_at + self._window_s
            if counted.count >= limit:
                return Decision(0, reset_at, max(1.0, reset_at - now))
            return Decision(limit - counted.count - 1, reset_at, event=await self.add(tx, key))

    async def _give_back(self, event: RateEvent) -> None:
        try:
            async with self._db.write() as tx:
                await rate_events.delete(tx, self._name, event)
        except ApplianceError as error:
            log.warning(
                "an event that did not take place stays counted",
                window=self._name,
                reason=error.message,
            )


def _hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
