"""Rate limits of requests per caller, by the rate policy."""

from math import ceil
from typing import NamedTuple

from appliance.config.settings import LimitSettings
from appliance.domain.addresses import client_network
from appliance.domain.rate_policy import EVERYTHING, RateLimit, RatePolicy
from appliance.errors import RateLimited
from appliance.services.rate_window import Decision, MemoryRateWindow, RateWindow, RateWindows

_MINUTE_S = 60.0
_UNIT_NAMES = {1.0: "second", _MINUTE_S: "minute", 3600.0: "hour", 86400.0: "day"}


class RateStatus(NamedTuple):
    """The state of a caller's window. `reset`: when its oldest request leaves, in epoch seconds."""

    limit: int
    remaining: int
    reset: int


_NO_LIMIT = RateStatus(0, 0, 0)


class TooManyRequests(RateLimited):
    """`details`: {limit, burst, reset}."""

    def __init__(self, limit: RateLimit, decision: Decision) -> None:
        seconds = max(1, ceil(decision.wait_s))
        self.status = _status(limit, decision)
        window = _UNIT_NAMES.get(limit.window_s, f"{limit.window_s:g} s")
        at_once = f" and {limit.burst} at once" if limit.burst else ""
        super().__init__(
            f"Too many requests: at most {limit.limit} per {window}{at_once}. "
            f"Try again in {seconds} s.",
            details={"limit": limit.limit, "burst": limit.burst, "reset": self.status.reset},
            retry_after=seconds,
        )


class RateLimiter:
    """Counts requests per caller under the row of the policy that applies to each of them."""

    def __init__(self, policy: RatePolicy, windows: RateWindows) -> None:
        self._policy = policy
        self._rows = {
            scope: [
                (limit, windows.open(f"requests {scope} {limit.window_s:g} s", limit.window_s))
                for limit in limits
            ]
            for scope, limits in policy.rows.items()
        }
        self._only_row = self._rows[EVERYTHING] if len(self._rows) == 1 else None

    async def take(
        self, caller: str, *, plan: str = "", dialect: str = "", route_class: str = ""
    ) -> RateStatus:
        """Count one request; the status is that of the limit with the fewest requests left.

        Raises TooManyRequests, and then counts nothing.
        """
        least: RateStatus | None = None
        counted: list[tuple[RateWindow, Decision]] = []
        row = self._only_row or self._rows[self._policy.find(plan, dialect, route_class)]
        for limit, window in row:
            decision = await window.take(caller, limit)
            if decision.wait_s:
                for earlier, given in counted:
                    await earlier.give_back(caller, given)
                raise TooManyRequests(limit, decision)
            counted.append((window, decision))
            if least is None or decision.remaining < least.remaining:
                least = _status(limit, decision)
        return least or _NO_LIMIT

    def peek(self, caller: str) -> RateStatus:
        """The status of a caller without a plan, without counting a request."""
        for limit, window in self._rows[EVERYTHING]:
            if isinstance(window, MemoryRateWindow):
                return _status(limit, window.peek(caller, limit))
        return _NO_LIMIT


def build_policy(settings: LimitSettings) -> RatePolicy:
    """One row: `requests_per_minute` and `burst` for everything."""
    limit = RateLimit(settings.requests_per_minute, _MINUTE_S, settings.burst)
    return RatePolicy({EVERYTHING: (limit,)})


def address_key(address: str) -> str:
    """The limiter's key for a caller without credentials; an IPv6 /64 network is one caller."""
    return f"address:{client_network(address)}"


def _status(limit: RateLimit, decision: Decision) -> RateStatus:
    return RateStatus(limit.limit, decision.remaining, ceil(decision.reset_at))
