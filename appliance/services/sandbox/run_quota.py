"""Limits the runs that a user starts per hour, in the database: a restart clears nothing.

A run is counted when it is queued, so that no more runs can wait than may start, and released
if it never starts.
"""

import time
from collections.abc import Callable
from math import ceil

from appliance.domain.rate_policy import RateLimit
from appliance.errors import RateLimited
from appliance.services.rate_window import Decision, StoredRateWindow
from appliance.store.database import Database

_HOUR_S = 3600.0


class RunQuota:
    """A sliding window of one hour per user. `clock` gives epoch seconds."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._window = StoredRateWindow("sandbox runs", _HOUR_S, clock, db)

    async def count_run(self, user_id: int, limit: int) -> "QuotaUse":
        """Count one run of at most `limit` per hour; 0 means no limit. Raises RateLimited."""
        key = str(user_id)
        if not limit:
            return QuotaUse(self._window, key, None)
        decision = await self._window.take(key, RateLimit(limit, _HOUR_S))
        if not decision.counted:
            seconds = ceil(decision.wait_s)
            raise RateLimited(
                f"limit of {limit} runs per hour reached; retry in {seconds} s",
                details={"limit": limit},
                retry_after=seconds,
            )
        return QuotaUse(self._window, key, decision)


class QuotaUse:
    """One counted run; `decision` is None without a limit."""

    def __init__(self, window: StoredRateWindow, key: str, decision: Decision | None) -> None:
        self._window = window
        self._key = key
        self._decision = decision

    async def release(self) -> None:
        """Uncount the run, which never started. Completes even if the caller is cancelled."""
        if self._decision is not None:
            await self._window.give_back(self._key, self._decision)
