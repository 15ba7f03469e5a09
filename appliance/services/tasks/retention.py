"""Deletes old tasks, and gives the space of deleted ones back to the file system."""

import asyncio
import time
from collections.abc import Callable
from itertools import product

import structlog

from appliance.config.settings import DataSettings
from appliance.domain.task_kinds import SCHEMAS
from appliance.domain.tasks import TaskStatus
from appliance.errors import ApplianceError
from appliance.store.database import Database
from appliance.store.tables import task_storage, user_feeds

_INTERVAL_S = 10.0
_DAY_S = 86400.0
# Small transactions, so that other writers hardly wait.
_TASKS_PER_TRANSACTION = 20
_EVENTS_PER_TRANSACTION = 500

log = structlog.get_logger()


class TaskRetention:
    """A background task from `start` to `close`. `clock` gives epoch seconds."""

    def __init__(
        self, db: Database, settings: DataSettings, clock: Callable[[], float] = time.time
    ) -> None:
        self._db = db
        self._clock = clock
        self._days = {
            TaskStatus.COMPLETED: settings.task_retention_days,
            TaskStatus.CANCELLED: settings.task_retention_days,
            TaskStatus.FAILED: settings.failed_task_retention_days,
        }
        self._event_days = settings.task_retention_days
        self._loop: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.create_task(self._run(), name="task retention")

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
            self._loop = None

    async def delete_expired(self) -> int:
        """Delete the tasks whose retention has passed, and old events of no task.

        Returns the number of tasks. Tasks of a kind that this program does not know are kept.
        """
        deleted = 0
        for kind, (status, days) in product(SCHEMAS, self._days.items()):
            if days:
                before = self._clock() - days * _DAY_S
                deleted += await self._delete_ended(kind, status, before)
        if self._event_days:
            await self._delete_events(self._clock() - self._event_days * _DAY_S)
        if deleted:
            log.info("old tasks deleted", tasks=deleted)
        return deleted

    async def _delete_ended(self, kind: str, status: TaskStatus, before: float) -> int:
        deleted = 0
        while True:
            async with self._db.write() as tx:
                ids = await task_storage.list_expired(
                    tx, kind, status, before, _TASKS_PER_TRANSACTION
                )
                await task_storage.delete(tx, ids)
            deleted += len(ids)
            if len(ids) < _TASKS_PER_TRANSACTION:
                return deleted

    async def _delete_events(self, before: float) -> None:
        limit = deleted = _EVENTS_PER_TRANSACTION
        while deleted == limit:
            async with self._db.write() as tx:
                deleted = await user_feeds.delete_before(tx, before, limit)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            try:
                await self.delete_expired()
                await self._db.reclaim_space()
            except ApplianceError as error:
                # A full disk or a lock; the next round may succeed.
                log.warning("old tasks could not be deleted", reason=error.message)
