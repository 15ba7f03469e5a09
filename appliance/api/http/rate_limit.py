"""How many requests a caller may make: a window of a minute and a burst, in memory."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from math import ceil
from typing import NamedTuple

from appliance.config.settings import LimitSettings
from appliance.errors import RateLimited

_WINDOW_S = 60.0
_CALLERS = 20_000
_IPV6_NETWORK_BITS = 64


class Window(NamedTuple):
    """Where a caller stands. `reset` is the end of the window, in epoch seconds."""

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
    """At most `requests_per_minute` in each caller's minute, at most `burst` at once.

    The burst is a bucket that refills at the rate of the window. Only the most
    recent callers are remembered, so that memory stays bounded.
    """

    def __init__(
        self,
        settings: LimitSettings,
        clock: Callable[[], float] = time.time,
        callers: int = _CALLERS,
    ) -> None:
        self._limit = settings.requests_per_minute
        self._burst = float(settings.burst)
        self._refill = settings.requests_per_minute / _WINDOW_S
        self._clock = clock
        self._room = callers
        self._callers: OrderedDict[str, _Caller] = OrderedDict()

    def take(self, caller: str) -> Window:
        """Count one request. Raises RateLimited with the seconds to wait."""
        now = self._clock()
        state = self._advance(caller, now)
        if state.used >= self._limit:
            self._refuse(state, state.window_start + _WINDOW_S - now)
        if state.tokens < 1.0:
            self._refuse(state, (1.0 - state.tokens) / self._refill)
        state.used += 1
        state.tokens -= 1.0
        return self._window(state)

    def peek(self, caller: str) -> Window:
        """Where a caller stands, counting nothing."""
        state = self._callers.get(caller)
        now = self._clock()
        if state is None or now >= state.window_start + _WINDOW_S:
            return Window(self._limit, self._limit, ceil(now + _WINDOW_S))
        return self._window(state)

    def _advance(self, caller: str, now: float) -> _Caller:
        state = self._callers.get(caller)
        if state is None:
            state = self._callers[caller] = _Caller(now, 0, self._burst, now)
            if len(self._callers) > self._room:
                self._callers.popitem(last=False)
            return state
        self._callers.move_to_end(caller)
        elapsed = max(0.0, now - state.refilled)
        state.tokens = min(self._burst, state.tokens + elapsed * self._refill)
        state.refilled = now
        if not 0.0 <= now - state.window_start < _WINDOW_S:
            state.window_start, state.used = now, 0
        return state

    def _window(self, state: _Caller) -> Window:
        remaining = max(0, self._limit - state.used)
        return Window(self._limit, remaining, ceil(state.window_start + _WINDOW_S))

    def _refuse(self, state: _Caller, wait_s: float) -> None:
        seconds = max(1, ceil(wait_s))
        window = self._window(state)
        raise RateLimited(
            f"Too many requests: at most {self._limit} per minute and {int(self._burst)} at once. "
            f"Try again in {seconds} s.",
            details={"limit": window.limit, "burst": int(self._burst), "reset": window.reset},
            retry_after=seconds,
        )


def address_key(address: str) -> str:
    """The caller behind an address; an IPv6 network counts as one."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return f"address:{address}"
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if isinstance(parsed, IPv6Address):
        network = int(parsed) >> (128 - _IPV6_NETWORK_BITS)
        return f"network:{network:x}"
    return f"address:{parsed}"
