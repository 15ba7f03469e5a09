"""The attempt log: which targets a call was tried with, and where its time went."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance import telemetry
from appliance.domain.completions import ProviderAttempt
from appliance.inference.admission.admission import Permit
from appliance.inference.request.route import Route

T = TypeVar("T")


class AttemptLog:
    """The log of one call.

    Seconds until the first event: `waited_s` in queues, `paused_s` between attempts,
    `provider_s` in providers, and `overhead_s`, the rest.
    """

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.attempts: list[ProviderAttempt] = []
        self.provider_s = 0.0
        self.waited_s = 0.0
        self.paused_s = 0.0
        self.overhead_s = 0.0

    def add_attempt(self, route: Route, error: str, seconds: float) -> None:
        """Add an attempt; `error` is "" if the provider began to answer."""
        self.attempts.append(ProviderAttempt(route.provider, route.model, error, round(seconds, 6)))
        self.provider_s += seconds
        telemetry.observe_attempt(route.provider, error)

    def merge_race(self, first: "AttemptLog", second: "AttemptLog", seconds: float) -> None:
        """Add two attempts that ran concurrently for `seconds`; the first one's wait counts."""
        self.attempts += first.attempts + second.attempts
        self.waited_s += first.waited_s
        self.provider_s += max(0.0, seconds - first.waited_s)

    def record_first_event(self, now: float) -> None:
        """Compute the overhead: the time so far that no wait, pause or provider took."""
        accounted = self.waited_s + self.paused_s + self.provider_s
        self.overhead_s = max(0.0, now - self.started_at - accounted)


@dataclass(frozen=True)
class Started(Generic[T]):
    """A target that began to answer. `permit` is to be released."""

    route: Route
    answer: T
    permit: Permit
