"""Rate limit of requests per caller: a fixed window of a minute and a token bucket."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from appliance.config.settings import LimitSettings
from appliance.domain.addresses import client_network
from appliance.errors import RateLimited

_WINDOW_S = 60.0
_MAX_CALLERS = 20_000


class RateStatus(NamedTuple):
    """The state of a caller's window. `reset` is its end, in epoch seconds."""

    limit: int
    remaining: int
    reset: int


@dataclass(slots=True)
class _Caller:
    window_start: float
    used: int
    tokens: float
    refilled: float


class RateLimiter:
    """Allows `requests_per_minute` in each window and `burst` at once, per caller.

    The burst is a token bucket that refills at the rate of the window. State is in memory,
    for the `max_callers` most recent callers.
    """

    def __init__(
        self,
        settings: LimitSettings,
        clock: Callable[[], float] = time.time,
        max_callers: int = _MAX_CALLERS,
    ) -> None:
        self._limit = settings.requests_per_minute
        self._burst = float(settings.burst)
        self._refill = settings.requests_per_minute / _WINDOW_S
        self._clock = clock
        self._max_callers = max_callers
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def take(self, caller: str) -> RateStatus:
        """Count one request. Raises RateLimited with the seconds to wait."""
        now = self._clock()
        state = self._advance(caller, now)
        if state.used >= self._limit:
            self._refuse(state, state.window_start + _WINDOW_S - now)
        if state.tokens < 1.0:
            self._refuse(state, (1.0 - state.tokens) / self._refill)
        state.used += 1
        state.tokens -= 1.0
        return self._status(state)

    def peek(self, caller: str) -> RateStatus:
        """The status of a caller, without counting a request."""
        state = self._callers.get(caller)
        now = self._clock()
        if state is None or now >= state.window_start + _WINDOW_S:
            return RateStatus(self._limit, self._limit, ceil(now + _WINDOW_S))
        return self._status(state)

    def _advance(self, caller: str, now: float) -> _Caller:
        state = self._callers.get(caller)
        if state is None:
            state = self._callers[caller] = _Caller(now, 0, self._burst, now)
            if len(self._callers) > self._max_callers:
                self._callers.popitem(last=False)
            return state
        self._callers.move_to_end(caller)
        elapsed = max(0.0, now - state.refilled)
        state.tokens = min(self._burst, state.tokens + elapsed * self._refill)
        state.refilled = now
        if not 0.0 <= now - state.window_start < _WINDOW_S:
            state.window_start, state.used = now, 0
        return state

    def _status(self, state: _Caller) -> RateStatus:
        remaining = max(0, self._limit - state.used)
        return RateStatus(self._limit, remaining, ceil(state.window_start + _WINDOW_S))

    def _refuse(self, state: _Caller, wait_s: float) -> None:
        seconds = max(1, ceil(wait_s))
        status = self._status(state)
        raise RateLimited(
            f"Too many requests: at most {self._limit} per minute and {int(self._burst)} at once. "
            f"Try again in {seconds} s.",
            details={"limit": status.limit, "burst": int(self._burst), "reset": status.reset},
            retry_after=seconds,
        )


def address_key(address: str) -> str:
    """The limiter's key for a caller without credentials; an IPv6 /64 network is one caller."""
    return f"address:{client_network(address)}"
