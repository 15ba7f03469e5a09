"""One deadline for many waits: a single timer, where asyncio.timeout needs one for each."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from appliance.errors import DeadlineExceeded

T = TypeVar("T")


class Deadline:
    """Runs from its making for `seconds`, until `close`.

    The waits may be of different tasks, one at a time.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._over = False
        self._waiting: asyncio.Task[Any] | None = None
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._end)

    async def keep(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is cancelled when time is up. Raises DeadlineExceeded."""
        if self._over:
            work.close()
            raise self._exceeded()
        task = asyncio.current_task()
        cancelling = task.cancelling() if task else 0
        self._waiting = task
        try:
            return await work
        except asyncio.CancelledError:
            # Somebody else may have cancelled the task as well; that goes first.
            if self._over and task and task.uncancel() <= cancelling:
                raise self._exceeded() from None
            raise
        finally:
            self._waiting = None

    def close(self) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self._over = True
        if self._waiting is not None:
            self._waiting.cancel()

    def _exceeded(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the completion was not done within {self._seconds:g} s; "
            "ask for fewer tokens, or the administrator allows more time"
        )
