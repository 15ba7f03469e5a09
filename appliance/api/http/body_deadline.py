"""A deadline for request bodies, with a minimum rate."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from appliance.api.http.pacer import Pacer
from appliance.config.settings import ServerSettings
from appliance.errors import BodyTimeout

_CHECK_INTERVAL_S = 0.25
# An answer takes about a millisecond: others are served between so many.
_MAX_ENDED_AT_ONCE = 8
_NEXT_INTERVAL_S = 0.02
# Each wakes two threads and takes about 0.1 ms. Bodies of honest clients have few.
_SMALL_PIECES_PER_S = 1000


class AwaitedBody:
    """How much of a body was received, and how long a task has waited for it."""

    def __init__(self) -> None:
        self.received = 0
        self.waited_s = 0.0
        self.is_counted = False
        self.ended = False
        self.task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    def end_wait(self) -> None:
        """Cancel the task that waits."""
        if self.task is not None:
            self.ended = True
            self._cancelling = self.task.cancelling()
            self.task.cancel()

    def caused_cancellation(self) -> bool:
        """Whether the task was cancelled by `end_wait` and by nothing else."""
        return self.ended and self.task is not None and self.task.uncancel() <= self._cancelling


class BodyDeadlines:
    """All bodies for which a task waits. One timer looks at them and counts the time.

    A timer and two clock readings each would cost as much as routing does.
    """

    def __init__(
        self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._grace_s = settings.body_timeout_s
        self._bytes_per_s = settings.body_bytes_per_s
        self._clock = clock
        self._awaited: set[AwaitedBody] = set()
        self.draining = 0
        """Bodies of which the rest is read after the answer."""
        self.small_pieces = Pacer(_SMALL_PIECES_PER_S, burst=_SMALL_PIECES_PER_S)
        """Paces the small pieces of all bodies together; clients take turns."""
        self._timer: asyncio.TimerHandle | None = None
        self._checked_at = 0.0

    def start(self, body: AwaitedBody) -> None:
        """Begin to wait for the next piece, in the current task."""
        body.task = asyncio.current_task()
        self._awaited.add(body)
        if self._timer is None:
            self._checked_at = self._clock()
            self._start_timer(_CHECK_INTERVAL_S)

    def stop(self, body: AwaitedBody) -> None:
        self._awaited.discard(body)

    def error(self) -> BodyTimeout:
        return BodyTimeout(
            f"the request body did not arrive in time: send at least {self._bytes_per_s} bytes "
            f"per second after the first {self._grace_s:g} s"
        )

    def _start_timer(self, delay_s: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._end_late)

    def _end_late(self) -> None:
        self._timer = None
        now = self._clock()
        late = [body for body in self._awaited if self._is_late(body, now - self._checked_at)]
        self._checked_at = now
        for body in late[:_MAX_ENDED_AT_ONCE]:
            body.end_wait()
        if self._awaited:
            many = len(late) > _MAX_ENDED_AT_ONCE
            self._start_timer(_NEXT_INTERVAL_S if many else _CHECK_INTERVAL_S)

    def _is_late(self, body: AwaitedBody, elapsed_s: float) -> bool:
        # The first check of a body only begins to count: it may wait for a moment only.
        body.waited_s += elapsed_s if body.is_counted else 0.0
        body.is_counted = True
        allowed_s = self._grace_s + body.received / self._bytes_per_s
        return not body.ended and body.waited_s >= allowed_s
