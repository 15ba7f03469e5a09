"""Limits the concurrent runs of each user."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class _UserSlots:
    semaphore: asyncio.Semaphore
    holders: int = 0


class UserConcurrency:
    """Limits the runs of each user; keeps no state of users without runs."""

    def __init__(self) -> None:
        self._slots: dict[int, _UserSlots] = {}

    @asynccontextmanager
    async def slot(self, user_id: int, limit: int) -> AsyncGenerator[None, None]:
        """Wait until fewer than `limit` runs of that user are active.

        A changed `limit` takes effect once the user's last run has ended.
        """
        slots = self._slots.setdefault(user_id, _UserSlots(asyncio.Semaphore(limit)))
        slots.holders += 1
        try:
            async with slots.semaphore:
                yield
        finally:
            slots.holders -= 1
            if not slots.holders:
                del self._slots[user_id]
