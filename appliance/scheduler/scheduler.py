"""The scheduler: claims tasks from the queue and runs each in a worker."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog

from appliance.config.settings import SchedulerSettings
from appliance.domain.tasks import AttemptId, EventKind, Task, TaskStatus
from appliance.errors import ApplianceError, NotFound, TaskNotCancellable, Unavailable
from appliance.events import EventBus
from appliance.scheduler.attempt import STOP_WAIT_S, Attempt, Stop
from appliance.scheduler.context import TaskContext, TaskHandler
from appliance.scheduler.journal import EndHook, Journal
from appliance.scheduler.leases import LEASE_S, LeaseKeeper
from appliance.scheduler.outcome import Cancelled, End, LeaseLost, Outcome, Postponed
from appliance.scheduler.stats import Durations, QueueStats
from appliance.store.database import Database
from appliance.store.tables import task_events, task_queue, tasks
from appliance.store.tables.task_queue import ClaimOptions

# `wake` announces new tasks. The queue is polled as well, for changes by other processes and
# after a failed claim.
_POLL_S = 5.0
_FIRST_RETRY_S = 0.1
_LAST_RETRY_S = 5.0
SETTLE_WAIT_S = 10.0
_CANCEL_TRIES = 3
_log = structlog.get_logger()


class Scheduler:
    """Runs the tasks of each kind through its handler. Tasks of kinds without one stay queued.

    `owner` is the id of this server in its leases: the same after a restart, and of no other
    running process. For `on_end` see Journal.
    """

    def __init__(
        self,
        db: Database,
        bus: EventBus,
        handlers: Mapping[str, TaskHandler],
        settings: SchedulerSettings,
        *,
        owner: str,
        on_end: Sequence[EndHook] = (),
    ) -> None:
        self._db = db
        self._handlers = handlers
        self._journal = Journal(db, bus, on_end)
        self._durations = {kind: Durations() for kind in handlers}
        self._attempts: dict[AttemptId, Attempt] = {}
        self._leases = LeaseKeeper(
            db,
            self._journal,
            owner=owner,
            attempts=self._attempts,
            max_attempts=settings.max_attempts,
            on_recovered=self.wake,
        )
        self._claim_options = ClaimOptions(
            owner, LEASE_S, settings.ageing_s, settings.task_timeout_s
        )
        self._workers: set[asyncio.Task[None]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._draining = False
        self._stop_retrying = asyncio.Event()

    async def start(self) -> None:
        """Recover the tasks that were running when the server last died, then begin to claim."""
        await self._leases.start()
        self._dispatcher = asyncio.create_task(self._dispatch(), name="scheduler")

    def wake(self) -> None:
        """Claim tasks now: one was queued."""
        self._wake.set()

    async def cancel(self, task_id: int) -> Task:
        """Cancel a queued or running task; it has ended when this returns.

        Raises NotFound, TaskNotCancellable if it ended before, and Unavailable if its end
        could not be written in time: it is still being stopped then.
        """
        for _ in range(_CANCEL_TRIES):
            task = await self._task(task_id)
            if task.status.final:
                raise _already_ended(task)
            await self._try_to_cancel(task)
            task = await self._task(task_id)
            if task.status is TaskStatus.CANCELLED:
                return task
        raise Unavailable("the task is still being stopped; retry shortly", retry_after=1.0)

    async def drain(self, grace_s: float) -> None:
        """Claim no more, wait `grace_s` for running tasks, put the rest back into the queue."""
        self._draining = True
        self._wake.set()
        if self._dispatcher:
            await asyncio.wait({self._dispatcher})
        await self._wait_for_workers(grace_s)
        for attempt in self._attempts.values():
            attempt.stop(Stop.DRAIN)
        await self._wait_for_workers(STOP_WAIT_S + SETTLE_WAIT_S)
        # A task whose end could not be written stays running: the next start recovers it.
        self._stop_retrying.set()
        await self._wait_for_workers(SETTLE_WAIT_S)
        for worker in self._workers:
            worker.cancel()
        await self._wait_for_workers(SETTLE_WAIT_S)
        await self._leases.close()

    async def stats(self, kind: str) -> QueueStats:
        """The load of the queue of one kind now."""
        async with self._db.read() as connection:
            depth = await task_queue.get_depth(connection, kind)
            now = await connection.now()
        workers = self._handlers[kind].workers
        return QueueStats(
            queued=depth.queued,
            running=depth.running,
            workers=workers,
            oldest_wait_s=max(0.0, now - depth.oldest_at) if depth.oldest_at else None,
            expected_wait_s=self._durations[kind].expected_wait_s(
                depth.queued, depth.running, workers
            ),
        )

    def next_free_worker_s(self, kind: str) -> float | None:
        """Average seconds until a worker of a kind becomes free; None before a task has ended."""
        return self._durations[kind].next_free_worker_s(self._handlers[kind].workers)

    async def _dispatch(self) -> None:
        while not self._draining:
            self._wake.clear()
            if not await self._start_next():
                await self._wait_for_wake()

    async def _wait_for_wake(self) -> None:
        try:
            async with asyncio.timeout(_POLL_S):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _start_next(self) -> bool:
        """Start the next task; False if there is none for a free worker or it can't be claimed."""
        running = Counter(each.task.kind for each in self._attempts.values())
        free = [kind for kind, each in self._handlers.items() if running[kind] < each.workers]
        try:
            attempt = await self._claim(free)
        except Exception as error:
            _log_failure("can't claim a task from the queue; retrying", error)
            return False
        if attempt is None:
            return False
        worker = asyncio.create_task(self._run_attempt(attempt), name=f"task {attempt.task.id}")
        self._workers.add(worker)
        worker.add_done_callback(self._workers.discard)
        return True

    async def _claim(self, kinds: Sequence[str]) -> Attempt | None:
        """The next task of the first of these kinds that has one."""
        if not kinds:
            return None
        claimed_at = time.monotonic()
        attempt: Attempt | None = None
        try:
            async with self._db.write() as tx:
                now = await tx.now()
                task = await task_queue.claim(tx, now, kinds, self._claim_options)
                if task is None:
                    return None
                started = await task_events.append(
                    tx, task, EventKind.STARTED, {"attempt": task.attempt}, now
                )
                history = await task_events.list_all(tx, task.id)
                attempt = Attempt(TaskContext(task, history, self._journal.step), claimed_at)
                # Before the commit: a cancellation that sees the task running must find it here.
                self._attempts[task.attempt_id] = attempt
        except BaseException:
            if attempt:
                del self._attempts[attempt.task.attempt_id]
                attempt.mark_settled()
            raise
        self._journal.publish(started)
        return attempt

    async def _run_attempt(self, attempt: Attempt) -> None:
        with structlog.contextvars.bound_contextvars(task=attempt.task.public_id):
            try:
                await self._settle(attempt, await attempt.run(self._handlers[attempt.task.kind]))
            except Exception:
                _log.exception("worker failed; its task is recovered")
            finally:
                del self._attempts[attempt.task.attempt_id]
                attempt.mark_settled()
                self._wake.set()

    async def _settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """Write the end, with retries: a full disk must not lose a result."""
        if isinstance(outcome, LeaseLost):
            _log.warning("attempt stopped: it has lost its lease", attempt=attempt.task.attempt)
            return
        pause = _FIRST_RETRY_S
        while not await self._write_end(attempt, outcome):
            try:
                async with asyncio.timeout(pause):
                    await self._stop_retrying.wait()
                return
            except TimeoutError:
                pause = min(pause * 2, _LAST_RETRY_S)

    async def _write_end(self, attempt: Attempt, outcome: End | Postponed) -> bool:
        """Whether the end is written, or no longer to be written."""
        task = attempt.task
        try:
            if isinstance(outcome, Postponed):
                changed = await self._journal.postpone(task)
            else:
                changed = await self._journal.end(task, outcome)
        except Exception as error:
            _log_failure("can't write the end of a task; retrying", error)
            return False
        if not changed:
            _log.warning("attempt dropped: the task ended or was taken over", attempt=task.attempt)
        elif not isinstance(outcome, Cancelled | Postponed):
            self._durations[task.kind].add(time.monotonic() - attempt.claimed_at)
        return True

    async def _try_to_cancel(self, task: Task) -> None:
        attempt = self._attempts.get(task.attempt_id)
        if attempt is None:
            # Queued, or run by another process, which notices when it renews its leases.
            await self._journal.end(task, Cancelled())
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


def _log_failure(what: str, error: Exception) -> None:
    """A traceback is logged for unexpected errors only."""
    expected = isinstance(error, ApplianceError)
    _log.error(what, reason=str(error), exc_info=None if expected else error)


def _already_ended(task: Task) -> TaskNotCancellable:
    return TaskNotCancellable(
        f"the task has already ended ({task.status}) and can't be cancelled",
        details={"status": task.status.value},
    )
