"""Keeps the workers busy with the tasks whose turn it is."""

import asyncio
import time

import structlog

from appliance.config.settings import SchedulerSettings
from appliance.domain.tasks import EventKind, Task, TaskStatus
from appliance.errors import ApplianceError, NotFound, TaskNotCancellable, Unavailable
from appliance.events import EventBus
from appliance.scheduler.attempt import STOP_WAIT_S, Attempt, Stop
from appliance.scheduler.context import TaskContext, TaskHandler
from appliance.scheduler.journal import Journal
from appliance.scheduler.outcome import Cancelled, Outcome, Postponed
from appliance.scheduler.stats import Durations, QueueStats
from appliance.store.sqlite.database import Database
from appliance.store.tables import task_events, task_queue, tasks

# A wake tells of every new task at once; this is for one that another process cancelled,
# freed or queued, and for a store that refused.
_LOOK_S = 5.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
SETTLE_WAIT_S = 10.0
_CANCEL_TRIES = 3
_log = structlog.get_logger()


class Scheduler:
    """Runs up to `settings.workers` tasks at once, each through `handler`."""

    def __init__(
        self, db: Database, bus: EventBus, handler: TaskHandler, settings: SchedulerSettings
    ) -> None:
        self._db = db
        self._handler = handler
        self._settings = settings
        self._journal = Journal(db, bus)
        self._durations = Durations()
        self._attempts: dict[int, Attempt] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._draining = False
        self._giving_up = asyncio.Event()

    async def start(self) -> None:
        """Put tasks that a dead box left running back into the queue, then begin."""
        recovered = await self._journal.recover(self._settings.max_attempts)
        if recovered:
            _log.info("tasks interrupted by the last end of the box", tasks=recovered)
        self._dispatcher = asyncio.create_task(self._dispatch(), name="scheduler")

    def wake(self) -> None:
        """Say that a task was put into the queue."""
        self._wake.set()

    async def cancel(self, task_id: int) -> Task:
        """Cancel a queued or running task; it has ended when this returns.

        Raises NotFound, TaskNotCancellable if it ended first, Unavailable if its end
        could not be written in time (it is still being stopped then).
        """
        for _ in range(_CANCEL_TRIES):
            task = await self._task(task_id)
            if task.status.final:
                raise _ended(task)
            await self._try_to_cancel(task)
            task = await self._task(task_id)
            if task.status is TaskStatus.CANCELLED:
                return task
        raise Unavailable("the task is still being stopped; ask again in a moment", retry_after=1.0)

    async def drain(self, grace_s: float) -> None:
        """Start nothing more, wait `grace_s` for what runs, put the rest back into the queue."""
        self._draining = True
        self._wake.set()
        if self._dispatcher:
            await asyncio.wait({self._dispatcher})
        await self._wait_for_workers(grace_s)
        for attempt in self._attempts.values():
            attempt.stop(Stop.DRAIN)
        await self._wait_for_workers(STOP_WAIT_S + SETTLE_WAIT_S)
        # What could not be written by now still says running: the next start recovers it.
        self._giving_up.set()
        await self._wait_for_workers(SETTLE_WAIT_S)
        for worker in self._workers:
            worker.cancel()
        await self._wait_for_workers(SETTLE_WAIT_S)

    async def stats(self) -> QueueStats:
        """How much waits and runs now."""
        async with self._db.read() as connection:
            depth = await task_queue.depth(connection)
        workers = self._settings.workers
        return QueueStats(
            queued=depth.queued,
            running=depth.running,
            workers=workers,
            oldest_wait_s=max(0.0, time.time() - depth.oldest_at) if depth.oldest_at else None,
            expected_wait_s=self._durations.expected_wait_s(depth.queued, depth.running, workers),
        )

    def next_place_s(self) -> float | None:
        """Seconds until the queue has a free place, as the last tasks went; None: unknown."""
        return self._durations.next_place_s(self._settings.workers)

    async def _dispatch(self) -> None:
        while not self._draining:
            self._wake.clear()
            if len(self._attempts) >= self._settings.workers or not await self._start_next():
                await self._wait_for_wake()

    async def _wait_for_wake(self) -> None:
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_next(self) -> bool:
        """Start the task whose turn it is; False if there is none, or no way to claim it."""
        try:
            attempt = await self._claim()
        except Exception as error:
            _log_trouble("can't claim a task from the queue; trying again soon", error)
            return False
        if attempt is None:
            return False
        worker = asyncio.create_task(self._work(attempt), name=f"task {attempt.task.id}")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)
        return True

    async def _claim(self) -> Attempt | None:
        now = time.time()
        attempt: Attempt | None = None
        try:
            async with self._db.write() as tx:
                task = await task_queue.claim(
                    tx, now, self._settings.ageing_s, self._settings.task_timeout_s
                )
                if task is None:
                    return None
                await task_events.append(
                    tx, task.id, EventKind.STARTED, {"attempt": task.attempt}, now
                )
                history = await task_events.whole(tx, task.id)
                attempt = Attempt(TaskContext(task, history, self._journal.step))
                # Known before the commit, so that who sees the task running finds it here.
                self._attempts[task.id] = attempt
        except BaseException:
            if attempt:
                del self._attempts[attempt.task.id]
                attempt.settled()
            raise
        self._journal.publish(history[-1])
        return attempt

    async def _work(self, attempt: Attempt) -> None:
        with structlog.contextvars.bound_contextvars(task=attempt.task.public_id):
            try:
                outcome = await attempt.run(self._handler)
                await self._settle(attempt.task, outcome)
            except Exception:
                _log.exception("a worker broke; its task runs again after a restart")
            finally:
                del self._attempts[attempt.task.id]
                attempt.settled()
                self._wake.set()

    async def _settle(self, task: Task, outcome: Outcome) -> None:
        """Write the end, as often as it takes: an answer is not lost to a full disk."""
        pause = _FIRST_RETRY_S
        while not await self._written(task, outcome):
            try:
                async with asyncio.timeout(pause):
                    await self._giving_up.wait()
                return
            except TimeoutError:
                pause = min(pause * 2, _LAST_RETRY_S)

    async def _written(self, task: Task, outcome: Outcome) -> bool:
        try:
            changed = await self._journal.end(task, outcome)
        except Exception as error:
            _log_trouble("can't write the end of a task; trying again soon", error)
            return False
        if changed and not isinstance(outcome, Cancelled | Postponed):
            self._durations.add(time.time() - (task.started_at or time.time()))
        return True

    async def _try_to_cancel(self, task: Task) -> None:
        attempt = self._attempts.get(task.id)
        if attempt is None:
            await self._journal.cancel(task)
        else:
            attempt.stop(Stop.CANCEL)
            await attempt.wait_settled(STOP_WAIT_S)

    async def _task(self, task_id: int) -> Task:
        async with self._db.read() as connection:
            task = await tasks.get(connection, task_id)
        if task is None:
            raise NotFound("there is no such task")
        return task

    async def _wait_for_workers(self, timeout_s: float) -> None:
        if self._workers:
            await asyncio.wait(set(self._workers), timeout=timeout_s)


def _log_trouble(what: str, error: Exception) -> None:
    """What the store refuses is told in a line; only the unexpected needs its traceback."""
    known = isinstance(error, ApplianceError)
    _log.error(what, reason=str(error), exc_info=None if known else error)


def _ended(task: Task) -> TaskNotCancellable:
    return TaskNotCancellable(
        f"the task has already ended ({task.status}); there is nothing to cancel",
        details={"status": task.status.value},
    )
