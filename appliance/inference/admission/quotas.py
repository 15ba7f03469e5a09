"""Limits per provider and per model: requests, tokens, money."""

import math
import time
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from appliance.inference.admission.buckets import Bucket
from appliance.inference.request.errors import LimitReached
from appliance.store.tables.usage_records import Spent

DAY_S = 86400.0


class Limit(Struct, frozen=True):
    """0 is no limit. Money is in the currency of the prices; its day is that of UTC."""

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    parallel: int = 0
    spend_per_day: float = 0.0


class Limits:
    """By "provider" and by "provider/model"; both count for a request of the model.

    `clock` gives seconds, `now` epoch seconds.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._counts = {name: _Count(name, limit, clock, now) for name, limit in limits.items()}

    def admit(self, provider: str, model: str, tokens: int, cost: float | None) -> "Admission":
        """Count a request that may use so much. Raises LimitReached, then nothing is counted."""
        counts = self._of(provider, model)
        for count in counts:
            count.require(tokens, cost or 0.0)
        for count in counts:
            count.begin(tokens, cost or 0.0)
        return Admission(counts, tokens, cost or 0.0)

    def parallel(self, name: str) -> int:
        """How many requests of this provider or model may run at once; 0 is no limit."""
        count = self._counts.get(name)
        return count.limit.parallel if count else 0

    def recall(self, spent: Iterable[Spent]) -> None:
        """What was spent today before the box started."""
        for item in spent:
            for count in self._of(item.provider, item.model):
                count.spend(item.cost)

    def _of(self, provider: str, model: str) -> "list[_Count]":
        names = (provider, f"{provider}/{model}")
        return [self._counts[name] for name in names if name in self._counts]


class Admission:
    """One request under its limits; to be settled or cancelled, the first one counts."""

    def __init__(self, counts: "list[_Count]", tokens: int, cost: float) -> None:
        self._counts = counts
        self._tokens = tokens
        self._cost = cost
        self._open = True

    def settle(self, tokens: int, cost: float | None) -> None:
        """Count what was really used instead of what was expected."""
        if self._open:
            self._open = False
            for count in self._counts:
                count.end(tokens - self._tokens, self._cost, cost or 0.0)

    def cancel(self) -> None:
        """Nothing was used."""
        self.settle(0, 0.0)


class _Count:
    def __init__(
        self, name: str, limit: Limit, clock: Callable[[], float], now: Callable[[], float]
    ) -> None:
        self.limit = limit
        self._name = name
        self._now = now
        self._requests = _bucket(limit.requests_per_minute, clock)
        self._tokens = _bucket(limit.tokens_per_minute, clock)
        self._reserved = 0.0
        self._spent = 0.0
        self._day: int = self._today()

    def require(self, tokens: int, cost: float) -> None:
        """Raises LimitReached, which says when to come back."""
        if self._requests and (wait := self._requests.wait_s(1)):
            raise self._reached(f"{self.limit.requests_per_minute} requests a minute", wait)
        if self._tokens and (wait := self._tokens.wait_s(tokens)):
            raise self._reached(f"{self.limit.tokens_per_minute} tokens a minute", wait)
        self._turn_day()
        most = self.limit.spend_per_day
        if most and (self._spent >= most or self._spent + self._reserved + cost > most):
            tomorrow = (self._day + 1) * DAY_S - self._now()
            raise self._reached(f"a spend of {most:g} a day", tomorrow)

    def begin(self, tokens: int, cost: float) -> None:
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(tokens)
        self._reserved += cost

    def end(self, more_tokens: int, reserved: float, cost: float) -> None:
        if self._tokens:
            self._tokens.take(more_tokens)
        self._reserved -= reserved
        self.spend(cost)

    def spend(self, cost: float) -> None:
        self._turn_day()
        self._spent += cost

    def _turn_day(self) -> None:
        today = self._today()
        if today != self._day:
            self._day, self._spent = today, 0.0

    def _today(self) -> int:
        return math.floor(self._now() / DAY_S)

    def _reached(self, limit: str, wait_s: float) -> LimitReached:
        return LimitReached(
            f"the administrator's limit for {self._name} is reached: {limit}",
            details={"name": self._name, "limit": limit},
            retry_after=wait_s,
        )


def _bucket(per_minute: int, clock: Callable[[], float]) -> Bucket | None:
    return Bucket(per_minute, clock) if per_minute else None
