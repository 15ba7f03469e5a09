"""The usage recorder: usage is reserved when an answer starts and settled when it ends."""

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import islice

import structlog
from msgspec.structs import replace

from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import AttemptId
from appliance.domain.usage import UsageRecord, UsageStatus
from appliance.errors import ApplianceError, Unavailable
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route
from appliance.inference.usage.pricing import Prices
from appliance.store.database import Database, Transaction
from appliance.store.tables import usage_records
from appliance.store.tables.usage_records import ModelCost

STORE_INTERVAL_S = 0.05
_MAX_RETRY_S = 2.0
BATCH_SIZE = 200
MAX_UNSTORED = 10_000
_DAY_S = 86400.0
_log = structlog.get_logger()


class UsageRecorder(ABC):
    """Makes usage records with their costs. `clock` gives epoch seconds."""

    def __init__(
        self, prices: Prices, clock: Callable[[], float] = time.time, *, owner: str = ""
    ) -> None:
        self._prices = prices
        self._clock = clock
        self._owner = owner

    @abstractmethod
    async def start(self) -> list[ModelCost]:
        """Begin to record. The result is what was spent since midnight (UTC)."""

    @abstractmethod
    async def close(self) -> None:
        """Store what is not stored yet; call it before closing the database."""

    @abstractmethod
    def require_capacity(self) -> None:
        """Raises Unavailable if a further record could not be stored."""

    @abstractmethod
    async def settle_task(self, tx: Transaction, task_id: int) -> None:
        """Store the usage of a task in the transaction that ends it.

        Calls that have not ended, such as those of an attempt that was interrupted, become
        INTERRUPTED; one that still ends in this process is settled again.
        """

    def reserve(self, call: Call, route: Route) -> UsageRecord:
        """Record the start of an answer with the most that it can cost."""
        bound = call.estimate.upper_bound(route.info.context_tokens)
        attempt_id = call.task_calls.attempt_id if call.task_calls else None
        number = call.task_calls.next_number() if call.task_calls else None
        record = UsageRecord(
            key=_key(attempt_id, number),
            task_id=attempt_id.task_id if attempt_id else None,
            attempt=attempt_id.attempt if attempt_id else None,
            call=number,
            owner=self._owner,
            user_id=call.caller.user_id,
            key_id=call.caller.key_id,
            kind=call.kind,
            provider=route.provider,
            # An upstream names its models; one that the database refuses must not stop the others.
            model=route.model.replace("\0", "?"),
            status=UsageStatus.RESERVED,
            started_at=self._clock(),
            reserved_cost=self._prices.cost(route.provider, route.model, bound),
        )
        self._record(record)
        return record

    def settle(
        self, record: UsageRecord, usage: TokenUsage, status: UsageStatus, *, exact: bool
    ) -> UsageRecord:
        """Record the end of an answer. The result holds its cost."""
        settled = replace(
            record,
            status=status,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            exact=exact,
            cost=self._prices.cost(record.provider, record.model, usage),
            seconds=max(0.0, self._clock() - record.started_at),
        )
        self._record(settled)
        return settled

    @abstractmethod
    def _record(self, record: UsageRecord) -> None: ...


def _key(attempt_id: AttemptId | None, number: int | None) -> str:
    if attempt_id is not None:
        return f"task-{attempt_id.task_id}-{attempt_id.attempt}-{number}"
    # Ordered by time, so that the index of the keys grows at its end.
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


class NullUsageRecorder(UsageRecorder):
    """For a gateway without a database: stores nothing."""

    async def start(self) -> list[ModelCost]:
        return []

    async def close(self) -> None:
        pass

    def require_capacity(self) -> None:
        pass

    async def settle_task(self, tx: Transaction, task_id: int) -> None:
        pass

    def _record(self, record: UsageRecord) -> None:
        del record


class StoredUsageRecorder(UsageRecorder):
    """Stores records in the database, all those of STORE_INTERVAL_S in one transaction.

    A crash loses the records not yet stored; the next start of the same `owner` finds those that
    are still reserved and marks them as interrupted. If the disk refuses writes until MAX_UNSTORED
    records wait, `require_capacity` raises.
    """

    def __init__(
        self,
        db: Database,
        prices: Prices,
        clock: Callable[[], float] = time.time,
        *,
        owner: str = "",
    ) -> None:
        super().__init__(prices, clock, owner=owner)
        self._db = db
        self._unstored: dict[str, UsageRecord] = {}
        self._has_records = asyncio.Event()
        self._batch_full = asyncio.Event()
        self._closing = False
        self._last_failure = ""
        self._retry_s = STORE_INTERVAL_S
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> list[ModelCost]:
        now = self._clock()
        async with self._db.write() as tx:
            interrupted = await usage_records.settle_interrupted(tx, self._owner, now - _DAY_S)
            spent = await usage_records.sum_costs_since(tx, now - now % _DAY_S)
        if interrupted:
            _log.info("completions were interrupted when the server ended", count=interrupted)
        self._task = asyncio.create_task(self._store_batches(), name="usage recorder")
        return spent

    async def close(self) -> None:
        self._closing = True
        self._has_records.set()
        self._batch_full.set()
        if self._task is not None:
            await self._task
            self._task = None
        while self._unstored:
            before = len(self._unstored)
            await self._store_batch()
            if len(self._unstored) >= before:
                break

    def require_capacity(self) -> None:
        if len(self._unstored) >= MAX_UNSTORED:
            raise Unavailable(
                "usage can't be recorded: the server's disk refuses writes; retry later",
                retry_after=1.0,
            )

    async def settle_task(self, tx: Transaction, task_id: int) -> None:
        # They stay in `_unstored`, since the transaction may fail.
        records = [record for record in self._unstored.values() if record.task_id == task_id]
        await usage_records.store(tx, records)
        await usage_records.settle_task(tx, task_id)

    async def _wait_after_failure(self, error: Exception) -> None:
        """Longer each time; a failure is logged unless it is the same as before."""
        reason = f"{type(error).__name__}: {error}"
        if reason != self._last_failure:
            self._last_failure = reason
            _log.error(
                "usage of completions can't be stored; it is kept and tried again",
                reason=reason,
                exc_info=not isinstance(error, ApplianceError),
            )
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(self._retry_s * 2, _MAX_RETRY_S)

    def _record(self, record: UsageRecord) -> None:
        self._unstored[record.key] = record
        self._has_records.set()
        if len(self._unstored) >= BATCH_SIZE:
            self._batch_full.set()

    async def _store_batches(self) -> None:
        while not self._closing:
            await self._has_records.wait()
            await self._wait_for_full_batch()
            await self._store_batch()

    async def _wait_for_full_batch(self) -> None:
        try:
            async with asyncio.timeout(STORE_INTERVAL_S):
                await self._batch_full.wait()
        except TimeoutError:
            return

    async def _store_batch(self) -> None:
        """Store the oldest BATCH_SIZE records. They are kept until they are stored: a task that
        ends meanwhile stores its own."""
        batch = list(islice(self._unstored.values(), BATCH_SIZE))
        try:
            async with self._db.write() as tx:
                await usage_records.store(tx, batch)
        except Exception as error:
            await self._wait_after_failure(error)
        else:
            for record in batch:
                if self._unstored[record.key] is record:  # else it was settled meanwhile
                    del self._unstored[record.key]
            self._retry_s, self._last_failure = STORE_INTERVAL_S, ""
        if len(self._unstored) < BATCH_SIZE:
            self._batch_full.clear()
        if not self._unstored and not self._closing:
            self._has_records.clear()
