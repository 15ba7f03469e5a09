"""How many runs a user may begin in an hour, in memory: a restart begins the hour anew.

A run is counted when it gets a place in the queue, so that no more can wait than may be begun;
one that never begins is given back.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from appliance.errors import RateLimited

_HOUR_S = 3600.0
_USERS = 20_000


class RunQuota:
    """Counts in each user's own hour, which begins with a first run. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hours: OrderedDict[int, tuple[float, int]] = OrderedDict()

    def take(self, user_id: int, most: int) -> "Counted":
        """Count one run where at most so many are allowed; 0 is no limit. Raises RateLimited."""
        if not most:
            return Counted(lambda: None)
        now = self._clock()
        began, count = self._hours.get(user_id, (now, 0))
        if now >= began + _HOUR_S:
            began, count = now, 0
        if count >= most:
            seconds = max(1, ceil(began + _HOUR_S - now))
            raise RateLimited(
                f"at most {most} runs may be begun in an hour; the next in {seconds} s",
                details={"limit": most},
                retry_after=seconds,
            )
        self._hours[user_id] = began, count + 1
        self._hours.move_to_end(user_id)
        if len(self._hours) > _USERS:
            self._hours.popitem(last=False)
        return Counted(lambda: self._uncount(user_id, began))

    def _uncount(self, user_id: int, began: float) -> None:
        hour = self._hours.get(user_id)
        # A run that waited into the next hour was not counted in that one.
        if hour is not None and hour[0] == began:
            self._hours[user_id] = began, hour[1] - 1


class Counted:
    """One run that was counted."""

    def __init__(self, uncount: Callable[[], None]) -> None:
        self._uncount = uncount

    def give_back(self) -> None:
        """It was never begun. To be called once."""
        self._uncount()
