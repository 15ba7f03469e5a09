"""Quotas per provider and per model: requests, tokens and spend.

Requests and tokens per minute are token buckets: a bucket holds a minute's worth and fills at
the rate of the quota. A request reserves its estimate and is settled with what it used, so the
level of a bucket may become negative.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from appliance.inference.request.errors import QuotaExceeded
from appliance.store.tables.usage_records import ModelCost

DAY_S = 86400.0
_MINUTE_S = 60.0


class Quota(Struct, frozen=True):
    """0 is no limit. `spend_per_day` is in the currency of the prices, per day in UTC."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    parallel: int = 0
    spend_per_day: float = 0.0


class Quotas:
    """Quotas by "provider" and by "provider/model"; both apply to a request of the model.

    `clock` gives seconds, `now` epoch seconds.
    """

    def __init__(
        self,
        quotas: Mapping[str, Quota],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._counters_by_name = {
            name: QuotaCounter(name, quota, clock, now) for name, quota in quotas.items()
        }

    def reserve(
        self, provider: str, model: str, tokens: int, cost: float | None
    ) -> "QuotaReservation":
        """Count a request with its estimate. Raises QuotaExceeded, and then counts nothing."""
        counters = self._counters(provider, model)
        for counter in counters:
            counter.check(tokens, cost or 0.0)
        for counter in counters:
            counter.reserve(tokens, cost or 0.0)
        return QuotaReservation(counters, tokens, cost or 0.0)

    def parallel_limit(self, name: str) -> int:
        """How many requests of this provider or model may run at once; 0 is no limit."""
        counter = self._counters_by_name.get(name)
        return counter.quota.parallel if counter else 0

    def restore_spend(self, spent: Iterable[ModelCost]) -> None:
        """Add what was spent today before the server started."""
        for item in spent:
            for counter in self._counters(item.provider, item.model):
                counter.add_spend(item.cost)

    def _counters(self, provider: str, model: str) -> "list[QuotaCounter]":
        names = (provider, f"{provider}/{model}")
        return [self._counters_by_name[name] for name in names if name in self._counters_by_name]


class QuotaReservation:
    """One request's estimate; only the first call of `settle` or `cancel` has an effect."""

    def __init__(self, counters: "list[QuotaCounter]", tokens: int, cost: float) -> None:
        self._counters = counters
        self._tokens = tokens
        self._cost = cost
        self._open = True

    def settle(self, tokens: int, cost: float | None) -> None:
        """Replace the estimate by what was used."""
        if self._open:
            self._open = False
            for counter in self._counters:
                counter.settle(tokens - self._tokens, self._cost, cost or 0.0)

    def cancel(self) -> None:
        """Settle with nothing used."""
        self.settle(0, 0.0)


class QuotaCounter:
    """What counts against one quota."""

    def __init__(
        self, name: str, quota: Quota, clock: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self.quota = quota
        self._name = name
        self._now = now
        self._requests = _token_bucket(quota.requests_per_minute, clock)
        self._tokens = _token_bucket(quota.tokens_per_minute, clock)
        self._reserved = 0.0
        self._spent = 0.0
        self._day: int = self._today()

    def check(self, tokens: int, cost: float) -> None:
        """Raises QuotaExceeded with the seconds until the request would fit."""
        if self._requests and (wait := self._requests.wait_s(1)):
            raise self._exceeded(f"{self.quota.requests_per_minute} requests a minute", wait)
        if self._tokens and (wait := self._tokens.wait_s(tokens)):
            raise self._exceeded(f"{self.quota.tokens_per_minute} tokens a minute", wait)
        self._roll_day()
        limit = self.quota.spend_per_day
        if limit and (self._spent >= limit or self._spent + self._reserved + cost > limit):
            tomorrow = (self._day + 1) * DAY_S - self._now()
            raise self._exceeded(f"a spend of {limit:g} a day", tomorrow)

    def reserve(self, tokens: int, cost: float) -> None:
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(tokens)
        self._reserved += cost

    def settle(self, more_tokens: int, reserved: float, cost: float) -> None:
        if self._tokens:
            self._tokens.take(more_tokens)
        self._reserved -= reserved
        self.add_spend(cost)

    def add_spend(self, cost: float) -> None:
        self._roll_day()
        self._spent += cost

    def _roll_day(self) -> None:
        today = self._today()
        if today != self._day:
            self._day, self._spent = today, 0.0

    def _today(self) -> int:
        return math.floor(self._now() / DAY_S)

    def _exceeded(self, limit: str, wait_s: float) -> QuotaExceeded:
        return QuotaExceeded(
            f"the administrator's limit for {self._name} is reached: {limit}",
            details={"name": self._name, "limit": limit},
            retry_after=wait_s,
        )


class TokenBucket:
    """A bucket that holds `per_minute` and fills at that rate."""

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._per_minute = float(per_minute)
        self._clock = clock
        self._level = self._per_minute
        self._updated_at = clock()

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount`, or a full bucket if that is less, can be taken."""
        self._refill()
        deficit = min(amount, self._per_minute) - self._level
        return max(0.0, deficit * _MINUTE_S / self._per_minute)

    def take(self, amount: float) -> None:
        """Take `amount`, also more than the bucket holds; a negative amount is given back."""
        self._refill()
        self._level = min(self._per_minute, self._level - amount)

    def _refill(self) -> None:
        now = self._clock()
        gained = (now - self._updated_at) * self._per_minute / _MINUTE_S
        self._level, self._updated_at = min(self._per_minute, self._level + gained), now


def _token_bucket(per_minute: int, clock: Callable[[], float]) -> TokenBucket | None:
    return TokenBucket(per_minute, clock) if per_minute else None
