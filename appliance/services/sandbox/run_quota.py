"""Limits the runs that a user starts per hour, in the database: a restart clears nothing.

A run is counted when it is queued, so that no more runs can wait than may start, and released
if it never starts.
"""

import asyncio
import time
from collections.abc import Callable
from math import ceil

import structlog

from appliance.errors import ApplianceError, RateLimited
from appliance.services.rate_window import RateWindow
from appliance.spi.cancellation import run_deferring_cancellation, run_to_completion
from appliance.store.sqlite.database import Database
from appliance.store.tables.rate_events import RateEvent

_HOUR_S = 3600.0

log = structlog.get_logger()


class RunQuota:
    """A sliding window of one hour per user. `clock` gives epoch seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._window = RateWindow("sandbox runs", _HOUR_S, clock)

    async def count_run(self, user_id: int, limit: int) -> "QuotaUse":
        """Count one run of at most `limit` per hour; 0 means no limit. Raises RateLimited."""
        if not limit:
            return QuotaUse(self, None)
        use, cancelled = await run_deferring_cancellation(self._count(str(user_id), limit))
        if cancelled:
            await use.release()
            raise asyncio.CancelledError
        return use

    async def uncount(self, event: RateEvent) -> None:
        """Delete a counted run; if the database refuses, it stays counted."""
        try:
            async with self._db.write() as tx:
                await self._window.remove(tx, event)
        except ApplianceError as error:
            log.warning("a run that never started stays counted", reason=error.message)

    async def _count(self, key: str, limit: int) -> "QuotaUse":
        async with self._db.write() as tx:
            counted = await self._window.count(tx, key)
            if counted.count >= limit:
                oldest = counted.oldest_at or self._clock()
                seconds = max(1, ceil(oldest + _HOUR_S - self._clock()))
                raise RateLimited(
                    f"limit of {limit} runs per hour reached; retry in {seconds} s",
                    details={"limit": limit},
                    retry_after=seconds,
                )
            return QuotaUse(self, await self._window.add(tx, key))


class QuotaUse:
    """One counted run; `event` is None without a limit."""

    def __init__(self, quota: RunQuota, event: RateEvent | None) -> None:
        self._quota = quota
        self._event = event

    async def release(self) -> None:
        """Uncount the run, which never started. Completes even if the caller is cancelled."""
        if self._event is not None:
            await run_to_completion(self._quota.uncount(self._event))
