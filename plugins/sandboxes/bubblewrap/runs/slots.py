"""How many sandboxes there may be at once, and that no two have the same user."""

import asyncio

from appliance.errors import SandboxUnavailable

_WAIT_S = 300.0


class Room:
    """Slots by number, of which `size` may be in use. A user id is in one at a time."""

    def __init__(self, slots: int) -> None:
        self.size = slots
        self._free = list(reversed(range(slots)))
        self._users: dict[int, int | None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def resize(self, size: int) -> None:
        """Those that are in use stay so."""
        self.size = size
        self._wake()

    async def enter(self, uid: int | None) -> int:
        """A slot for this user, to be left again; waits for one.

        Raises SandboxUnavailable if there is none for long.
        """
        try:
            async with asyncio.timeout(_WAIT_S):
                while not self._has_room(uid):
                    await self._change()
        except TimeoutError:
            raise SandboxUnavailable(
                f"every sandbox was in use for {_WAIT_S:.0f} s: try again later"
            ) from None
        slot = self._free.pop()
        self._users[slot] = uid
        return slot

    def leave(self, slot: int) -> None:
        del self._users[slot]
        self._free.append(slot)
        self._wake()

    def _has_room(self, uid: int | None) -> bool:
        taken = uid is not None and uid in self._users.values()
        return not taken and len(self._users) < self.size

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _change(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        finally:
            self._waiting.remove(waiter)
