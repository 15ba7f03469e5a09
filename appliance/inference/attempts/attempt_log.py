"""What became of a call so far: whom it was tried with, and where its time went."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance import telemetry
from appliance.domain.completions import Attempt
from appliance.inference.admission.admission import Entered
from appliance.inference.request.route import Route

T = TypeVar("T")


class Trace:
    """What happened to one call. Times are in seconds."""

    def __init__(self, now: float) -> None:
        self.began = now
        self.attempts: list[Attempt] = []
        self.asked_s = 0.0
        self.waited_s = 0.0
        self.paused_s = 0.0
        self.overhead_s = 0.0

    def note(self, route: Route, error: str, seconds: float) -> None:
        """Add an attempt; `error` is "" if it serves."""
        self.attempts.append(Attempt(route.provider, route.model, error, round(seconds, 6)))
        self.asked_s += seconds
        telemetry.observe_attempt(route.provider, error)

    def join(self, first: "Trace", second: "Trace", seconds: float) -> None:
        """Add what went on beside each other in so much time; the wait is the first one's."""
        self.attempts += first.attempts + second.attempts
        self.waited_s += first.waited_s
        self.asked_s += max(0.0, seconds - first.waited_s)

    def began_to_answer(self, now: float) -> None:
        """All the time until here that nobody else took was the box's own."""
        others = self.waited_s + self.paused_s + self.asked_s
        self.overhead_s = max(0.0, now - self.began - others)


@dataclass(frozen=True)
class Begun(Generic[T]):
    """What the first candidate that served gave; `entered` is to be released."""

    route: Route
    answer: T
    entered: Entered
