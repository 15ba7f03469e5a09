"""Usage, reserved when a completion begins and settled when it ends, stored in groups."""

import asyncio
import time
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from appliance.domain.messages import TokenUsage
from appliance.domain.usage import UsageRecord, UsageStatus
from appliance.errors import Unavailable
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route
from appliance.inference.usage.pricing import Prices
from appliance.store.sqlite.database import Database
from appliance.store.tables import usage_records
from appliance.store.tables.usage_records import Spent

EVERY_S = 0.05
GROUP = 200
UNSTORED = 10_000
_DAY_S = 86400.0
_log = structlog.get_logger()


class Books:
    """Reserves and settles; keeps nothing. `clock` gives epoch seconds."""

    def __init__(self, prices: Prices, clock: Callable[[], float] = time.time) -> None:
        self._prices = prices
        self._clock = clock
        self._last_id = 0

    async def start(self) -> list[Spent]:
        """Begin to record; returns what was spent since midnight (UTC)."""
        return []

    async def close(self) -> None:
        """Record what is left."""

    def require_room(self) -> None:
        """Raises Unavailable if what runs now could not be recorded."""

    def open(self, call: Call, route: Route) -> UsageRecord:
        """Reserve the most that this completion can cost."""
        self._last_id += 1
        most = call.size.at_most(route.info.context_tokens)
        record = UsageRecord(
            id=self._last_id,
            user_id=call.caller.user_id,
            key_id=call.caller.key_id,
            kind=call.kind,
            provider=route.provider,
            model=route.model,
            status=UsageStatus.RESERVED,
            started_at=self._clock(),
            reserved_cost=self._prices.cost(route.provider, route.model, most),
        )
        self._keep(record)
        return record

    def settle(
        self, record: UsageRecord, usage: TokenUsage, status: UsageStatus, *, exact: bool
    ) -> UsageRecord:
        """Close a record with what was used; returns it with its cost."""
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
        self._keep(settled)
        return settled

    def _keep(self, record: UsageRecord) -> None: ...


class Ledger(Books):
    """Books in the box's database: one transaction for all that happened in EVERY_S.

    Between `start` and `close`. A crash loses what was not yet stored; what was stored as
    reserved is found at the next start and settled as interrupted. If the disk refuses for
    so long that UNSTORED records wait, nothing more may begin.
    """

    def __init__(
        self, db: Database, prices: Prices, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(prices, clock)
        self._db = db
        self._unstored: dict[int, UsageRecord] = {}
        self._news = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> list[Spent]:
        """Settle what an earlier run left open, and begin to store."""
        now = self._clock()
        async with self._db.write() as tx:
            interrupted = await usage_records.interrupt(tx)
            self._last_id = max(self._last_id, await usage_records.last_id(tx))
            spent = await usage_records.spent_since(tx, now - now % _DAY_S)
        if interrupted:
            _log.info("completions were interrupted by the end of the box", count=interrupted)
        self._task = asyncio.create_task(self._store_in_groups(), name="usage ledger")
        return spent

    async def close(self) -> None:
        """Store what is left; to be called before the database's."""
        self._closing = True
        self._news.set()
        self._full.set()
        if self._task is not None:
            await self._task
            self._task = None
        while self._unstored:
            before = len(self._unstored)
            await self._store_group()
            if len(self._unstored) >= before:
                break

    def require_room(self) -> None:
        if len(self._unstored) >= UNSTORED:
            raise Unavailable(
                "usage can't be recorded at the moment: the box's disk does not take it",
                retry_after=1.0,
            )

    def _keep(self, record: UsageRecord) -> None:
        self._unstored[record.id] = record
        self._news.set()
        if len(self._unstored) >= GROUP:
            self._full.set()

    async def _store_in_groups(self) -> None:
        while not self._closing:
            await self._news.wait()
            await self._until_worthwhile()
            await self._store_group()

    async def _until_worthwhile(self) -> None:
        try:
            async with asyncio.timeout(EVERY_S):
                await self._full.wait()
        except TimeoutError:
            return

    async def _store_group(self) -> None:
        """Store the oldest GROUP records; what the disk refuses is kept for the next time."""
        group = [self._unstored.pop(key) for key in list(self._unstored)[:GROUP]]
        try:
            async with self._db.write() as tx:
                await usage_records.store(tx, group)
        except Exception:
            _log.exception("storing the usage of completions failed", records=len(group))
            self._unstored = {record.id: record for record in group} | self._unstored
            await asyncio.sleep(EVERY_S)
        if len(self._unstored) < GROUP:
            self._full.clear()
        if not self._unstored and not self._closing:
            self._news.clear()
