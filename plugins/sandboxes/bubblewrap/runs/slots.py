"""Limits the number of sandboxes, and keeps two of them from having the same user id."""

import asyncio

from appliance.errors import SandboxUnavailable

_WAIT_S = 300.0


class SlotAllocator:
    """Numbered slots, of which `size` may be in use. No user id has two slots at a time."""

    def __init__(self, slots: int) -> None:
        self.size = slots
        self._free = list(reversed(range(slots)))
        self._users: dict[int, int | None] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def resize(self, size: int) -> None:
        """Change the limit; slots in use stay in use."""
        self.size = size
        self._notify()

    async def acquire(self, uid: int | None) -> int:
        """Wait for a slot for this user id (None: the service's own) and return its number.

        Raises SandboxUnavailable after 300 s.
        """
        try:
            async with asyncio.timeout(_WAIT_S):
                while not self._is_available(uid):
                    await self._wait_for_change()
        except TimeoutError:
            raise SandboxUnavailable(
                f"all {self.size} sandboxes were in use for {_WAIT_S:.0f} s; retry later"
            ) from None
        slot = self._free.pop()
        self._users[slot] = uid
        return slot

    def release(self, slot: int) -> None:
        del self._users[slot]
        self._free.append(slot)
        self._notify()

    def _is_available(self, uid: int | None) -> bool:
        in_use = uid is not None and uid in self._users.values()
        return not in_use and len(self._users) < self.size

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _wait_for_change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
