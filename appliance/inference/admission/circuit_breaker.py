"""Circuit breakers: a provider that keeps failing is left alone for a while."""

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

import structlog

from appliance.errors import ApplianceError
from appliance.inference.request import failures as outcomes
from appliance.inference.request.errors import CircuitOpen

_log = structlog.get_logger()


class State(StrEnum):
    """HALF_OPEN: one request is let through to see whether the provider works again."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens after `failures` within `window_s`, and asks again after `pause_s`."""

    def __init__(
        self,
        name: str,
        failures: int,
        window_s: float,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._limit = failures
        self._window_s = window_s
        self._pause_s = pause_s
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=failures)
        self._probe_at: float | None = None
        self._probing = False

    @property
    def state(self) -> State:
        if self._probe_at is None:
            return State.CLOSED
        return State.HALF_OPEN if self._clock() >= self._probe_at else State.OPEN

    def require_closed(self) -> None:
        """Raises CircuitOpen unless a request may go now; lets one probe through at a time."""
        state = self.state
        if state is State.CLOSED:
            return
        if state is State.OPEN or self._probing:
            left = max(0.0, (self._probe_at or 0.0) - self._clock())
            raise CircuitOpen(
                f"{self._name} failed {self._limit} times within {self._window_s:g} s and is left "
                "alone for a while; come back later or take another model",
                details={"provider": self._name},
                retry_after=max(left, 1.0),
            )
        self._probing = True

    def served(self) -> None:
        """It works: forget what failed."""
        if self._probe_at is not None:
            _log.info("provider works again", provider=self._name)
        self._probe_at, self._probing = None, False
        self._failures.clear()

    def failed(self, error: ApplianceError) -> None:
        """Count a failure, if it speaks against the provider's health."""
        if not outcomes.trips(error):
            self.given_up()
            return
        now = self._clock()
        self._failures.append(now)
        recent = [at for at in self._failures if now - at <= self._window_s]
        if self._probe_at is not None or len(recent) >= self._limit:
            if self._probe_at is None:
                _log.warning("provider is left alone", provider=self._name, seconds=self._pause_s)
            self._probe_at, self._probing = now + self._pause_s, False

    def given_up(self) -> None:
        """A request ended without showing how the provider is: the next one may probe."""
        self._probing = False
