"""One attempt at one task: the handler runs in an asyncio task that can be stopped."""

import asyncio
import time
from enum import Enum, auto
from typing import Any

import structlog

from appliance.domain.tasks import Task, TaskResult
from appliance.scheduler import outcome
from appliance.scheduler.context import TaskContext, TaskHandler
from appliance.scheduler.outcome import Outcome

STOP_WAIT_S = 5.0
# How long an attempt runs without a renewal of its lease; see leases.py.
FENCE_S = 20.0
_log = structlog.get_logger()


class Stop(Enum):
    """Why an attempt has to end early."""

    CANCEL = auto()
    DEADLINE = auto()
    DRAIN = auto()
    LEASE_LOST = auto()


class Attempt:
    """Runs a handler until it ends, the deadline or the lease passes, or `stop` is called.

    `claimed_at` is a time of the monotonic clock before the claim was sent.
    """

    def __init__(self, context: TaskContext, claimed_at: float) -> None:
        self.context = context
        self.claimed_at = claimed_at
        self._renewed_at = claimed_at
        self._reason: Stop | None = None
        self._stop_requested = asyncio.Event()
        self._settled_event = asyncio.Event()

    @property
    def task(self) -> Task:
        return self.context.task

    def renew(self, sent_at: float) -> None:
        """Note that the lease was renewed by a request sent at this time (monotonic clock)."""
        self._renewed_at = sent_at

    def stop(self, reason: Stop) -> None:
        """Request an early end. Any other reason takes precedence over a shutdown."""
        if self._reason in (None, Stop.DRAIN):
            self._reason = reason
        self._stop_requested.set()

    async def run(self, handler: TaskHandler) -> Outcome:
        """The outcome. Raises nothing but its own cancellation."""
        work = asyncio.create_task(self._call(handler))
        stop = asyncio.create_task(self._stop_requested.wait())
        try:
            await self._wait_for_end({work, stop})
            if not work.done():
                await self._stop_work(work)
        finally:
            stop.cancel()
            work.cancel()
        return self._outcome(work)

    def mark_settled(self) -> None:
        """Note that the end is written, or left to the recovery at the next start."""
        self._settled_event.set()

    async def wait_settled(self, timeout_s: float) -> bool:
        """Whether the end was written within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._settled_event.wait()
        except TimeoutError:
            return False
        return True

    async def _wait_for_end(self, ends: set["asyncio.Task[Any]"]) -> None:
        """Wait for one of `ends`, the deadline, or the end of the lease."""
        while (deadline_s := self.context.remaining_s()) > 0:
            lease_s = self._renewed_at + FENCE_S - time.monotonic()
            if lease_s <= 0:
                self.stop(Stop.LEASE_LOST)
                return
            timeout = min(deadline_s, lease_s)
            done, _ = await asyncio.wait(ends, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return

    async def _call(self, handler: TaskHandler) -> TaskResult:
        return await handler.run(self.context)

    async def _stop_work(self, work: "asyncio.Task[TaskResult]") -> None:
        if self._reason is None:
            self._reason = Stop.DEADLINE
        work.cancel()
        await asyncio.wait({work}, timeout=STOP_WAIT_S)
        if not work.done():
            _log.error("task handler does not stop", task=self.task.public_id)
            work.add_done_callback(_log_late_error)

    def _outcome(self, work: "asyncio.Task[TaskResult]") -> Outcome:
        if work.done() and not work.cancelled() and work.exception() is None:
            return outcome.completed(self.task.kind, work.result())
        if self._reason is not None:
            return self._stopped(self._reason)
        if work.cancelled():
            return outcome.failed(RuntimeError("the handler cancelled itself"))
        error = work.exception()
        return outcome.failed(error or RuntimeError("the handler ended without an answer"))

    def _stopped(self, reason: Stop) -> Outcome:
        if reason is Stop.CANCEL:
            return outcome.Cancelled()
        if reason is Stop.DRAIN:
            return outcome.Postponed()
        if reason is Stop.LEASE_LOST:
            return outcome.LeaseLost()
        return outcome.timed_out(round(self.context.timeout_s, 3))


def _log_late_error(work: "asyncio.Task[TaskResult]") -> None:
    """Retrieve the exception of a handler that ended late, or asyncio would warn about it."""
    if not work.cancelled() and (error := work.exception()):
        _log.error("task handler failed after its attempt had ended", exc_info=error)
