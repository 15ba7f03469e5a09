"""Circuit breaker: pauses requests to a provider that fails repeatedly.

Closed, it counts failures; `max_failures` within `window_s` open it. Open, it refuses requests
for `pause_s`. Then it is half-open: one request at a time is let through as a probe, whose
success closes the circuit and whose failure opens it again.
"""

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

import structlog

from appliance.errors import ApplianceError
from appliance.inference.request.errors import CircuitOpen, trips_breaker

_log = structlog.get_logger()


class CircuitState(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """The circuit of one provider or local model. `clock` gives seconds."""

    def __init__(
        self,
        name: str,
        max_failures: int,
        window_s: float,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._max_failures = max_failures
        self._window_s = window_s
        self._pause_s = pause_s
        self._clock = clock
        self._failures: deque[float] = deque(maxlen=max_failures)
        self._probe_at: float | None = None
        self._probing = False

    @property
    def state(self) -> CircuitState:
        if self._probe_at is None:
            return CircuitState.CLOSED
        return CircuitState.HALF_OPEN if self._clock() >= self._probe_at else CircuitState.OPEN

    def require_closed(self) -> None:
        """Raises CircuitOpen unless the circuit is closed, or this request is the probe.

        Each call that returns must be followed by one of the `record` methods.
        """
        state = self.state
        if state is CircuitState.CLOSED:
            return
        if state is CircuitState.OPEN or self._probing:
            remaining_s = max(0.0, (self._probe_at or 0.0) - self._clock())
            raise CircuitOpen(
                f"{self._name} failed {self._max_failures} times within {self._window_s:g} s; "
                "requests to it are paused. Retry later or use another model",
                details={"provider": self._name},
                retry_after=max(remaining_s, 1.0),
            )
        self._probing = True

    def record_success(self) -> None:
        """Close the circuit and forget the failures."""
        if self._probe_at is not None:
            _log.info("circuit breaker closed", provider=self._name)
        self._probe_at, self._probing = None, False
        self._failures.clear()

    def record_failure(self, error: ApplianceError) -> None:
        """Count a failure of the provider; other errors count as abandoned."""
        if not trips_breaker(error):
            self.record_abandoned()
            return
        now = self._clock()
        self._failures.append(now)
        recent = [at for at in self._failures if now - at <= self._window_s]
        if self._probe_at is not None or len(recent) >= self._max_failures:
            if self._probe_at is None:
                _log.warning("circuit breaker opened", provider=self._name, seconds=self._pause_s)
            self._probe_at, self._probing = now + self._pause_s, False

    def record_abandoned(self) -> None:
        """The request ended without a verdict on the provider; the next one may be the probe."""
        self._probing = False
