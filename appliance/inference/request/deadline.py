"""Deadlines: one timer for all deadlines of one length, which can all be ended at once.

`asyncio.timeout` sets a timer for each wait; a completion waits for every token. Deadlines of
one length expire in the order in which they were started, so one timer for the first is enough.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from appliance.errors import ApplianceError, DeadlineExceeded

T = TypeVar("T")


class Deadlines:
    """Deadlines of `seconds` each. `message` is the text of DeadlineExceeded."""

    def __init__(self, seconds: float, message: str) -> None:
        self.seconds = max(0.0, seconds)
        self.message = message
        self._open: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._last_closed: asyncio.Event | None = None

    def start(self) -> "Deadline":
        """A deadline that runs from now until it is closed."""
        loop, deadline = asyncio.get_running_loop(), Deadline(self)
        self._open[deadline] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._expire_due)
        return deadline

    def remove(self, deadline: "Deadline") -> None:
        """For Deadline.close only. The timer keeps running: the next deadline will need it."""
        self._open.pop(deadline, None)
        if self._last_closed is not None and not self._open:
            self._last_closed.set()

    async def drain(self, grace_s: float, error: Callable[[], ApplianceError]) -> None:
        """Wait `grace_s` until all are closed; the work of those that are not raises `error()`."""
        if self._open:
            self._last_closed = asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._last_closed.wait()
        for deadline in list(self._open):
            del self._open[deadline]
            deadline.expire(error)

    def _expire_due(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for deadline, ends_at in list(self._open.items()):
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._expire_due)
                return
            del self._open[deadline]
            deadline.expire(lambda: DeadlineExceeded(self.message))


class Deadline:
    """One deadline. Several tasks may run work under it, one at a time."""

    def __init__(self, group: Deadlines) -> None:
        self._group = group
        self._error: Callable[[], ApplianceError] | None = None
        self._waiting: asyncio.Task[Any] | None = None

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, which is cancelled at the deadline.

        Raises DeadlineExceeded, or the error of Deadlines.drain.
        """
        if self._error is not None:
            raise self._error()
        task = asyncio.current_task()
        cancelling = task.cancelling() if task else 0
        self._waiting = task
        try:
            return await work()
        except asyncio.CancelledError:
            # A cancellation by anybody else takes precedence.
            if self._error is not None and task and task.uncancel() <= cancelling:
                raise self._error() from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """The work is done: the deadline no longer expires."""
        self._group.remove(self)

    def expire(self, error: Callable[[], ApplianceError]) -> None:
        """Cancel the work, if any runs; it raises `error()`."""
        self._error = error
        if self._waiting is not None:
            self._waiting.cancel()
