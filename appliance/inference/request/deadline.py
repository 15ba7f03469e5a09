"""Deadlines: one timer for all of a kind, where asyncio.timeout needs one for each wait."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from appliance.errors import DeadlineExceeded

T = TypeVar("T")


class Deadlines:
    """All of one length, so that they end in the order of their beginning.

    `message` is what is said where one is exceeded.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self.seconds = max(0.0, seconds)
        self.message = message
        self._open: dict[Deadline, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> "Deadline":
        """One that runs from now on, until its `close`."""
        loop, deadline = asyncio.get_running_loop(), Deadline(self)
        self._open[deadline] = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_later(self.seconds, self._ring)
        return deadline

    def forget(self, deadline: "Deadline") -> None:
        """For Deadline only. The timer goes on: most likely the next one needs it."""
        self._open.pop(deadline, None)

    def _ring(self) -> None:
        loop, self._timer = asyncio.get_running_loop(), None
        for deadline, ends_at in list(self._open.items()):
            if ends_at > loop.time():
                self._timer = loop.call_at(ends_at, self._ring)
                return
            del self._open[deadline]
            deadline.end()


class Deadline:
    """The end of one piece of work; its waits may be of different tasks, one at a time."""

    def __init__(self, all_of_them: Deadlines) -> None:
        self._all = all_of_them
        self._over = False
        self._waiting: asyncio.Task[Any] | None = None

    async def keep(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, which is cancelled when time is up. Raises DeadlineExceeded."""
        if self._over:
            raise DeadlineExceeded(self._all.message)
        task = asyncio.current_task()
        cancelling = task.cancelling() if task else 0
        self._waiting = task
        try:
            return await work()
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task as well; that goes first.
            if self._over and task and task.uncancel() <= cancelling:
                raise DeadlineExceeded(self._all.message) from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        """It came to its end in time."""
        self._all.forget(self)

    def end(self) -> None:
        """Time is up."""
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()
