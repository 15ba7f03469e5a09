"""The periodic work on accounts: store the uses of keys, forget what has expired."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from appliance.services.accounts.key_usage import KeyUsage
from appliance.store.sqlite.database import Database
from appliance.store.tables import api_keys, refresh_tokens

_FLUSH_S = 10.0
_CLEAN_S = 3600.0
# Revoked and expired keys stay visible to their user for a while.
_KEPT_S = 90 * 86400.0

log = structlog.get_logger()


class AccountUpkeep:
    """One background task, from `start` to `close`."""

    def __init__(self, db: Database, usage: KeyUsage, clock: Callable[[], float]) -> None:
        self._db = db
        self._usage = usage
        self._clock = clock
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="account upkeep")

    async def close(self) -> None:
        """Finish what is running, then store the last uses."""
        self._closing.set()
        if self._task is not None:
            await self._task
            self._task = None
        await self._attempt("storing the uses of API keys failed", self._usage.flush)

    async def clean(self) -> None:
        """Forget sessions that have expired, and keys that ended long ago."""
        now = self._clock()
        async with self._db.write() as tx:
            await refresh_tokens.delete_expired(tx, now)
            await api_keys.delete_dead(tx, now - _KEPT_S)

    async def _run(self) -> None:
        passed_s = 0.0
        while not await self._closing_within(_FLUSH_S):
            await self._attempt("storing the uses of API keys failed", self._usage.flush)
            passed_s += _FLUSH_S
            if passed_s >= _CLEAN_S:
                passed_s = 0.0
                await self._attempt("forgetting expired credentials failed", self.clean)

    async def _closing_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    async def _attempt(self, problem: str, work: Callable[[], Awaitable[None]]) -> None:
        """One failure, a full disk say, must not end the task: the next round may succeed."""
        try:
            await work()
        except Exception:
            log.exception(problem)
