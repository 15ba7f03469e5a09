"""Leases of running tasks: renewed while this process works on them, recovered once abandoned.

A running task has a lease in the database: its owner, and the time at which it expires by the
database's clock (Gray and Cheriton 1989). Three rules keep two processes from running one task:

- The owner renews all its leases every INTERVAL_S. An attempt that has lost its lease, because
  the task was cancelled or taken over elsewhere, is stopped; so is one whose lease could not be
  renewed for FENCE_S on this process's monotonic clock, before others see it expire at LEASE_S.
- Every process takes over what has no valid lease, and what its own id holds without an attempt
  in this process: after a crash, a restart recovers its tasks at once.
- Every write names the attempt, which each claim increases (a fencing token): a process that
  was suspended and comes back changes nothing.
"""

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from appliance.domain.tasks import AttemptId
from appliance.errors import ApplianceError
from appliance.scheduler.attempt import Attempt, Stop
from appliance.scheduler.journal import Journal
from appliance.store.database import Database
from appliance.store.tables import task_leases

INTERVAL_S = 5.0
LEASE_S = 30.0
_log = structlog.get_logger()


class LeaseKeeper:
    """Renews and recovers leases from `start` to `close`.

    `attempts` are those of this process. `on_recovered` is called after tasks were requeued.
    """

    def __init__(
        self,
        db: Database,
        journal: Journal,
        *,
        owner: str,
        attempts: Mapping[AttemptId, Attempt],
        max_attempts: int,
        on_recovered: Callable[[], None],
    ) -> None:
        self._db = db
        self._journal = journal
        self._owner = owner
        self._attempts = attempts
        self._max_attempts = max_attempts
        self._on_recovered = on_recovered
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Recover abandoned tasks now, then work periodically."""
        await self.recover()
        self._loop = asyncio.create_task(self._run(), name="task leases")

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
            self._loop = None

    async def renew(self) -> None:
        """Extend the leases of all attempts in one statement, and stop those that have lost it."""
        attempts = dict(self._attempts)
        if not attempts:
            return
        sent_at = time.monotonic()
        async with self._db.write() as tx:
            held = await task_leases.renew(tx, self._owner, await tx.now() + LEASE_S)
        for attempt_id, attempt in attempts.items():
            if attempt_id in held:
                attempt.renew(sent_at)
            else:
                attempt.stop(Stop.LEASE_LOST)

    async def recover(self) -> None:
        """Requeue or fail running tasks that no process works on."""
        async with self._db.read() as connection:
            now = await connection.now()
            abandoned = await task_leases.list_abandoned(connection, self._owner, now)
        if all(attempt_id in self._attempts for attempt_id in abandoned):
            return
        recovered = await self._journal.recover(self._owner, self._attempts, self._max_attempts)
        if recovered:
            _log.warning("interrupted tasks recovered", tasks=recovered)
            self._on_recovered()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.renew()
                await self.recover()
            except ApplianceError as error:
                _log.warning("task leases can't be renewed; retrying", reason=error.message)
            except Exception:
                _log.exception("task leases can't be renewed; retrying")
