"""Limits the runs that a user starts per hour. In memory: a restart clears the counts.

A run is counted when it is queued, so that no more runs can wait than may start, and
released if it never starts.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from appliance.errors import RateLimited

_HOUR_S = 3600.0
_MAX_USERS = 20_000


class RunQuota:
    """A fixed window of one hour per user, from the user's first run. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def count_run(self, user_id: int, limit: int) -> "QuotaUse":
        """Count one run of at most `limit` per hour; 0 means no limit. Raises RateLimited."""
        if not limit:
            return QuotaUse(lambda: None)
        now = self._clock()
        start, count = self._windows.get(user_id, (now, 0))
        if now >= start + _HOUR_S:
            start, count = now, 0
        if count >= limit:
            seconds = max(1, ceil(start + _HOUR_S - now))
            raise RateLimited(
                f"limit of {limit} runs per hour reached; retry in {seconds} s",
                details={"limit": limit},
                retry_after=seconds,
            )
        self._windows[user_id] = start, count + 1
        self._windows.move_to_end(user_id)
        if len(self._windows) > _MAX_USERS:
            self._windows.popitem(last=False)
        return QuotaUse(lambda: self._release(user_id, start))

    def _release(self, user_id: int, start: float) -> None:
        window = self._windows.get(user_id)
        # A run that was counted in an earlier window is not in this count.
        if window is not None and window[0] == start:
            self._windows[user_id] = start, window[1] - 1


class QuotaUse:
    """One counted run."""

    def __init__(self, uncount: Callable[[], None]) -> None:
        self._release = uncount

    def release(self) -> None:
        """Uncount the run, which never started. Call at most once."""
        self._release()
