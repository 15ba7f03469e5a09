"""Changes the status of tasks together with their journal, then publishes the events."""

from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from typing import Any

from appliance import telemetry
from appliance.domain.tasks import AttemptId, EventKind, Task, TaskStatus
from appliance.domain.user_events import UserEvent
from appliance.errors import Conflict
from appliance.events import EventBus
from appliance.scheduler import outcome
from appliance.scheduler.outcome import End
from appliance.spi.cancellation import run_to_completion
from appliance.store.database import Database, Transaction
from appliance.store.tables import task_events, task_leases, task_queue, tasks
from appliance.store.tables.task_queue import TaskEnd

EndHook = Callable[[Transaction, Task, End], Awaitable[None]]


class Journal:
    """Every change of an accepted task. Each call is one transaction.

    A call whose caller is cancelled still runs to its end, so that every committed event is
    published.

    Each of `on_end` is awaited inside the one transaction that ends a task, whatever ends it:
    completion, failure, deadline, cancellation while queued or running, recovery. What it
    writes is stored exactly if the end is; if it raises, the task has not ended. It gets the
    task as it was before, and must not open a transaction of its own.
    """

    def __init__(self, db: Database, bus: EventBus, on_end: Sequence[EndHook] = ()) -> None:
        self._db = db
        self._bus = bus
        self._on_end = on_end

    async def step(self, task: Task, kind: str, data: Mapping[str, Any]) -> None:
        """Write a step of the running attempt. Raises Conflict if it has ended."""
        await run_to_completion(self._step(task, kind, data))

    async def end(self, task: Task, outcome: End) -> bool:
        """End the task; False if it no longer has the status and attempt of `task`."""
        return await run_to_completion(self._end(task, outcome))

    async def postpone(self, task: Task) -> bool:
        """Put a running task back into the queue; False if the attempt has ended."""
        return await run_to_completion(self._postpone(task))

    async def recover(self, owner: str, held: Container[AttemptId], max_attempts: int) -> int:
        """Requeue running tasks without a valid lease, and those of `owner` not in `held`.

        Returns their number. A task that was interrupted `max_attempts` times in a row without
        progress fails instead.
        """
        return await run_to_completion(self._recover(owner, held, max_attempts))

    def publish(self, event: UserEvent) -> None:
        """Publish an event that another transaction wrote."""
        self._bus.publish(event)

    async def _step(self, task: Task, kind: str, data: Mapping[str, Any]) -> None:
        async with self._db.write() as tx:
            event = await task_events.append_step(tx, task, kind, data, await tx.now())
        if event is None:
            raise Conflict("this attempt at the task has ended; it can emit no more events")
        self.publish(event)

    async def _end(self, task: Task, outcome: End) -> bool:
        async with self._db.write() as tx:
            event = await self._write_end(tx, task, outcome)
        if event is None:
            return False
        self._publish_end(event)
        return True

    async def _postpone(self, task: Task) -> bool:
        async with self._db.write() as tx:
            return await task_queue.requeue(tx, task.attempt_id, await tx.now())

    async def _recover(self, owner: str, held: Container[AttemptId], max_attempts: int) -> int:
        ends: list[UserEvent] = []
        recovered = 0
        async with self._db.write() as tx:
            now = await tx.now()
            for attempt_id in await task_leases.list_abandoned(tx, owner, now):
                interruption = await task_queue.get_interruption(tx, attempt_id.task_id)
                if attempt_id in held or interruption is None:
                    continue
                times = 0 if interruption.progressed else interruption.count + 1
                if times < max_attempts:
                    changed = await task_queue.requeue(tx, attempt_id, now, interruptions=times)
                else:
                    task = await tasks.get(tx, attempt_id.task_id)
                    failed = _interruption_failure(times)
                    event = await self._write_end(tx, task, failed) if task else None
                    changed = event is not None
                    ends += [event] if event else []
                recovered += changed
        for event in ends:
            self._publish_end(event)
        return recovered

    async def _write_end(self, tx: Transaction, task: Task, outcome: End) -> UserEvent | None:
        """Every end of a task: status, last event, hooks, all in the caller's transaction.

        None if the task no longer has the status and attempt of `task`.
        """
        now = await tx.now()
        end, kind, data = _describe_end(outcome)
        if not await task_queue.end(tx, task.attempt_id, task.status, end, now):
            return None
        event = await task_events.append(tx, task, kind, data, now)
        for hook in self._on_end:
            await hook(tx, task, outcome)
        return event

    def _publish_end(self, event: UserEvent) -> None:
        telemetry.observe_task(event.kind)
        self._bus.publish(event)


def _describe_end(result: End) -> tuple[TaskEnd, EventKind, dict[str, Any]]:
    match result:
        case outcome.Completed(answer):
            return TaskEnd(TaskStatus.COMPLETED, result=answer), EventKind.COMPLETED, {}
        case outcome.Failed(failure):
            data = {
                "code": failure.code, "message": failure.message, "details": failure.details
            }  # fmt: skip
            return TaskEnd(TaskStatus.FAILED, failure=failure), EventKind.FAILED, data
        case outcome.Cancelled():
            return TaskEnd(TaskStatus.CANCELLED), EventKind.CANCELLED, {}


def _interruption_failure(times: int) -> outcome.Failed:
    return outcome.internal_error(
        f"the server ended unexpectedly {times} times in a row while this task made no progress; "
        "the task is not retried, since it may be the cause"
    )
