"""A deadline for request bodies, with a minimum rate."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from appliance.config.settings import ServerSettings
from appliance.errors import BodyTimeout

_CHECK_INTERVAL_S = 0.25
# An answer takes about a millisecond: others are served between so many.
_MAX_ENDED_AT_ONCE = 8
_NEXT_INTERVAL_S = 0.02


class BodyWait:
    """How long the server has waited for one body; its task, while it waits."""

    __slots__ = ("_cancelling", "_task", "ended", "received", "started", "waited_s")

    def __init__(self) -> None:
        self.received = 0
        self.waited_s = 0.0
        self.started = 0.0
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0
        self.ended = False

    def start(self, now: float, task: "asyncio.Task[Any] | None") -> None:
        self.started = now
        self._task = task
        self._cancelling = task.cancelling() if task else 0

    def end(self) -> None:
        """Cancel the task."""
        if self._task is not None:
            self.ended = True
            self._task.cancel()

    def caused_cancellation(self) -> bool:
        """Whether the task was cancelled by `end` and by nothing else."""
        return self.ended and self._task is not None and self._task.uncancel() <= self._cancelling


class BodyDeadlines:
    """All waits for bodies. One timer serves them: one each would cost as much as routing does."""

    def __init__(
        self, settings: ServerSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._grace_s = settings.body_timeout_s
        self._bytes_per_s = settings.body_bytes_per_s
        self._clock = clock
        self._waits: set[BodyWait] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, wait: BodyWait) -> None:
        """Begin to wait for the next piece, in the current task."""
        wait.start(self._clock(), asyncio.current_task())
        self._waits.add(wait)
        if self._timer is None:
            self._start_timer(_CHECK_INTERVAL_S)

    def stop(self, wait: BodyWait) -> None:
        self._waits.discard(wait)
        wait.waited_s += self._clock() - wait.started

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
        late = [wait for wait in self._waits if self._is_late(wait, now)]
        for wait in late[:_MAX_ENDED_AT_ONCE]:
            wait.end()
        if self._waits:
            many = len(late) > _MAX_ENDED_AT_ONCE
            self._start_timer(_NEXT_INTERVAL_S if many else _CHECK_INTERVAL_S)

    def _is_late(self, wait: BodyWait, now: float) -> bool:
        allowed_s = self._grace_s + wait.received / self._bytes_per_s
        return not wait.ended and wait.waited_s + now - wait.started >= allowed_s
