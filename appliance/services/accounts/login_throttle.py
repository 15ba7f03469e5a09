"""Limits failed logins per account and per client address, to slow down password guessing."""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from appliance.domain.addresses import client_network
from appliance.errors import RateLimited

_CAPACITY = 10_000


class LoginThrottle:
    """Counts failed logins over a sliding window, in memory: a restart clears the counts.

    Call `check` before verifying the password and again afterwards, without an await
    between the second call and `record_failure` or `record_success`. Concurrent guesses
    then get no more answers than sequential ones.
    """

    def __init__(
        self,
        *,
        per_account: int,
        per_address: int,
        window_s: float,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = _FailureWindow(per_account, window_s, capacity)
        self._addresses = _FailureWindow(per_address, window_s, capacity)
        self._clock = clock

    def check(self, account: str, address: str) -> None:
        """Raises RateLimited, with the seconds until the next attempt, above either limit."""
        now = self._clock()
        _require_no_wait("for this account", self._accounts.wait_s(account, now))
        _require_no_wait("from this address", self._addresses.wait_s(client_network(address), now))

    def record_failure(self, account: str, address: str) -> None:
        now = self._clock()
        self._accounts.add(account, now)
        self._addresses.add(client_network(address), now)

    def record_success(self, account: str) -> None:
        """Clear the account's failures; those of the address stay."""
        self._accounts.forget(account)


class _FailureWindow:
    """Times of the latest failures by key: up to `limit` times per key, `capacity` keys."""

    def __init__(self, limit: int, window_s: float, capacity: int) -> None:
        self._limit = limit
        self._window_s = window_s
        self._capacity = capacity
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, key: str, now: float) -> None:
        times = self._times.setdefault(key, deque(maxlen=self._limit))
        times.append(now)
        self._times.move_to_end(key)
        # Evict the key that failed longest ago: its window has most likely passed.
        while len(self._times) > self._capacity:
            self._times.popitem(last=False)

    def forget(self, key: str) -> None:
        self._times.pop(key, None)

    def wait_s(self, key: str, now: float) -> float:
        """Seconds until the next attempt is allowed; 0 if it is now."""
        times = self._times.get(key)
        if not times or len(times) < self._limit:
            return 0.0
        return max(0.0, times[0] + self._window_s - now)


def _require_no_wait(whose: str, wait_s: float) -> None:
    if wait_s > 0:
        seconds = math.ceil(wait_s)
        raise RateLimited(
            f"too many failed logins {whose}; try again in {seconds} s", retry_after=seconds
        )
