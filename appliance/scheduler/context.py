"""The context of a task handler."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.tasks import FINAL_EVENTS, Task, TaskEvent, TaskResult
from appliance.domain.usage import TaskCalls

Emit = Callable[[Task, str, Mapping[str, Any]], Awaitable[None]]


class TaskContext:
    """One attempt at one task.

    `history` is the journal so far, including earlier attempts, from which a handler resumes.
    `timeout_s` is the time that the attempt may take from its start. `calls` numbers the calls
    to models, for their usage records.
    """

    def __init__(self, task: Task, history: Sequence[TaskEvent], emit: Emit) -> None:
        self.task = task
        self.history = history
        self.calls = TaskCalls(task.attempt_id)
        self._emit = emit
        # A duration: the database's clock may differ from this host's.
        self.timeout_s = (task.deadline_at or 0.0) - (task.started_at or 0.0)
        self._ends_at = time.monotonic() + self.timeout_s

    async def emit(self, kind: str, data: Mapping[str, Any]) -> None:
        """Write a step to the journal; it is on disk when this returns.

        `data` must be JSON-compatible. Raises Conflict if the attempt has ended, and ValueError
        for a final kind: the scheduler writes the end of a task.
        """
        if kind in FINAL_EVENTS:
            raise ValueError(f"a handler may not emit {kind}; it ends by returning or raising")
        await self._emit(self.task, kind, data)

    def remaining_s(self) -> float:
        """Seconds until the deadline, never below 0."""
        return max(0.0, self._ends_at - time.monotonic())


RunTask = Callable[[TaskContext], Awaitable[TaskResult]]


class TaskHandler(Struct, frozen=True):
    """How tasks of one kind are run: each by a call of `run`, up to `workers` at once."""

    run: RunTask
    workers: int
