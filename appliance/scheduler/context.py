"""What the handler of a task is given."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from appliance.domain.tasks import EventKind, Task, TaskEvent, TaskResult

Emit = Callable[[Task, EventKind, Mapping[str, Any]], Awaitable[TaskEvent]]


class TaskContext:
    """One attempt at one task.

    `history` is the journal so far, earlier attempts included: a handler goes on
    from what it finds there.
    """

    def __init__(self, task: Task, history: Sequence[TaskEvent], emit: Emit) -> None:
        self.task = task
        self.history = history
        self._emit = emit
        left = (task.deadline_at or 0.0) - time.time()
        self._ends = time.monotonic() + left

    async def emit(self, kind: EventKind, data: Mapping[str, Any]) -> TaskEvent:
        """Write a step into the journal; it is on disk when this returns.

        `data` is JSON-compatible. The end of a task is not the handler's to write:
        a final kind raises ValueError. Raises Conflict if the attempt has ended.
        """
        if kind.final:
            raise ValueError(f"a handler ends by returning or raising, not by {kind}")
        return await self._emit(self.task, kind, data)

    def remaining_s(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self._ends - time.monotonic())


TaskHandler = Callable[[TaskContext], Awaitable[TaskResult]]
