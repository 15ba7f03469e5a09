"""Periodic work on accounts: store the uses of keys, delete expired credentials."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from appliance.services.accounts.key_usage import KeyUsage
from appliance.services.accounts.login_throttle import LoginThrottle
from appliance.store.database import Database
from appliance.store.tables import api_keys, refresh_tokens

_FLUSH_INTERVAL_S = 10.0
_CLEANUP_INTERVAL_S = 3600.0
# How long revoked and expired keys stay visible to their user.
_KEY_RETENTION_S = 90 * 86400.0

log = structlog.get_logger()


class AccountMaintenance:
    """A background task from `start` to `close`."""

    def __init__(
        self, db: Database, usage: KeyUsage, throttle: LoginThrottle, clock: Callable[[], float]
    ) -> None:
        self._db = db
        self._usage = usage
        self._throttle = throttle
        self._clock = clock
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="account maintenance")

    async def close(self) -> None:
        """Wait for the running step, then store the last uses."""
        self._closing.set()
        if self._task is not None:
            await self._task
            self._task = None
        await self._run_logged("storing the uses of API keys failed", self._usage.flush)

    async def delete_expired(self) -> None:
        """Delete expired sessions, keys that ended more than _KEY_RETENTION_S ago, and networks
        that users have long not used.
        """
        now = self._clock()
        async with self._db.write() as tx:
            await refresh_tokens.delete_expired(tx, now)
            await api_keys.delete_ended(tx, now - _KEY_RETENTION_S)
            await self._throttle.delete_expired(tx)

    async def _run(self) -> None:
        elapsed_s = 0.0
        while not await self._wait_for_close(_FLUSH_INTERVAL_S):
            await self._run_logged("storing the uses of API keys failed", self._usage.flush)
            elapsed_s += _FLUSH_INTERVAL_S
            if elapsed_s >= _CLEANUP_INTERVAL_S:
                elapsed_s = 0.0
                await self._run_logged("forgetting expired credentials failed", self.delete_expired)

    async def _wait_for_close(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._closing.wait()
        except TimeoutError:
            return False

    async def _run_logged(self, problem: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work`; log a failure instead of raising it, since the next round may succeed."""
        try:
            await work()
        except Exception:
            log.exception(problem)
