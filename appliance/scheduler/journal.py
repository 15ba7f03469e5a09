"""Changes the status of tasks together with their journal, then publishes the events."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from appliance import telemetry
from appliance.domain.tasks import EventKind, Task, TaskEvent, TaskFailure, TaskStatus
from appliance.errors import Conflict
from appliance.events import EventBus
from appliance.scheduler import outcome
from appliance.scheduler.outcome import Outcome
from appliance.spi.cancellation import run_to_completion
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import task_events, task_queue


class Journal:
    """Every change of an accepted task. Each call is one transaction.

    A call whose caller is cancelled still runs to its end, so that every committed event is
    published.
    """

    def __init__(self, db: Database, bus: EventBus) -> None:
        self._db = db
        self._bus = bus

    async def step(self, task: Task, kind: EventKind, data: Mapping[str, Any]) -> TaskEvent:
        """Write a step of the running attempt. Raises Conflict if it has ended."""
        return await run_to_completion(self._step(task, kind, data))

    async def end(self, task: Task, result: Outcome) -> bool:
        """Write the end of the running attempt; False if it had ended already."""
        return await run_to_completion(self._end(task, result))

    async def cancel(self, task: Task) -> bool:
        """Cancel a task that has the status of `task` and no attempt in this process."""
        return await run_to_completion(self._cancel(task))

    async def recover_interrupted(self, max_attempts: int) -> int:
        """Requeue the tasks that were running when the server died; returns their number.

        A task that was interrupted `max_attempts` times in a row without progress fails instead.
        """
        return await run_to_completion(self._recover(max_attempts))

    def publish(self, event: TaskEvent) -> None:
        """Publish an event that another transaction wrote."""
        self._bus.publish(event)

    async def _step(self, task: Task, kind: EventKind, data: Mapping[str, Any]) -> TaskEvent:
        async with self._db.write() as tx:
            event = await task_events.append_step(tx, task, kind, data, time.time())
        if event is None:
            raise Conflict("this attempt at the task has ended; it can emit no more events")
        self.publish(event)
        return event

    async def _end(self, task: Task, result: Outcome) -> bool:
        now = time.time()
        events: list[TaskEvent] = []
        async with self._db.write() as tx:
            changed = await _write_end(tx, task, result, now)
            kind, data = _end_event(result)
            if changed and kind:
                events.append(await task_events.append(tx, task.id, kind, data, now))
        self._publish_all(events)
        return changed

    async def _cancel(self, task: Task) -> bool:
        now = time.time()
        events: list[TaskEvent] = []
        async with self._db.write() as tx:
            changed = await task_queue.cancel(tx, task.id, task.status, now)
            if changed:
                kind = EventKind.CANCELLED
                events.append(await task_events.append(tx, task.id, kind, {}, now))
        self._publish_all(events)
        return changed

    async def _recover(self, max_attempts: int) -> int:
        now = time.time()
        events: list[TaskEvent] = []
        async with self._db.write() as tx:
            interrupted = await task_queue.list_running(tx)
            for task in interrupted:
                times = 0 if task.progressed else task.interruptions + 1
                if times < max_attempts:
                    await task_queue.requeue(tx, task.id, task.attempt, now, interruptions=times)
                    continue
                failure = _interruption_failure(times)
                await task_queue.fail(tx, task.id, task.attempt, failure, now)
                data = _failure_data(failure)
                events.append(await task_events.append(tx, task.id, EventKind.FAILED, data, now))
        self._publish_all(events)
        return len(interrupted)

    def _publish_all(self, events: Sequence[TaskEvent]) -> None:
        for event in events:
            if event.kind.final:
                telemetry.observe_task(event.kind)
            self._bus.publish(event)


async def _write_end(tx: Transaction, task: Task, result: Outcome, now: float) -> bool:
    match result:
        case outcome.Completed(answer):
            return await task_queue.complete(tx, task, answer, now)
        case outcome.Failed(failure):
            return await task_queue.fail(tx, task.id, task.attempt, failure, now)
        case outcome.Cancelled():
            return await task_queue.cancel(tx, task.id, TaskStatus.RUNNING, now)
        case outcome.Postponed():
            return await task_queue.requeue(tx, task.id, task.attempt, now)


def _end_event(result: Outcome) -> tuple[EventKind | None, dict[str, Any]]:
    match result:
        case outcome.Completed():
            return EventKind.COMPLETED, {}
        case outcome.Failed(failure):
            return EventKind.FAILED, _failure_data(failure)
        case outcome.Cancelled():
            return EventKind.CANCELLED, {}
        case outcome.Postponed():
            return None, {}


def _failure_data(failure: TaskFailure) -> dict[str, Any]:
    return {"code": failure.code, "message": failure.message, "details": failure.details}


def _interruption_failure(times: int) -> TaskFailure:
    return outcome.internal_error(
        f"the server ended unexpectedly {times} times in a row while this task made no progress; "
        "the task is not retried, since it may be the cause"
    ).failure
