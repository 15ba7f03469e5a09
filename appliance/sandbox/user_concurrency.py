"""How many runs one user may have at once."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass
class _Held:
    free: asyncio.Semaphore
    users: int = 0


class Turns:
    """Bounds the runs of each user; nothing is remembered of one who has none."""

    def __init__(self) -> None:
        self._held: dict[int, _Held] = {}

    @asynccontextmanager
    async def of(self, user_id: int, most: int) -> AsyncGenerator[None, None]:
        """Wait until fewer than `most` runs of that user go on.

        Another `most` than before holds once the user's last run is over.
        """
        held = self._held.setdefault(user_id, _Held(asyncio.Semaphore(most)))
        held.users += 1
        try:
            async with held.free:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._held[user_id]
