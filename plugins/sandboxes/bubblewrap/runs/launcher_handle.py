"""A sandbox in the launcher's hands, as far as the service is told of it."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.unavailable import unavailable


class Usage(Struct, frozen=True):
    """What a whole run used, as the kernel tells whoever reaps it, or of its control group.

    `max_rss_bytes` is that of the largest process that was reaped. Of a run that was killed
    it is what its processes had together, where a group counts that.
    """

    cpu_s: float
    max_rss_bytes: int


class Launched:
    """`over` is true when everything in it is dead and cleared away; then `usage` is known.

    `starved` tells that memory ran out, `lost` why nothing is known of its end, if so.
    """

    def __init__(self, name: bytes, at_end: Callable[[], None]) -> None:
        self.name = name
        self.over = False
        self.starved = False
        self.lost = ""
        self.usage: Usage | None = None
        self.ended = asyncio.Event()
        self.made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._at_end = [at_end]

    def call_at_end(self, action: Callable[[], None]) -> None:
        """Do it when the sandbox is over, or soon if it is."""
        if self.over:
            asyncio.get_running_loop().call_soon(action)
        else:
            self._at_end.append(action)

    def meet(self) -> None:
        """It waits for its job; or bwrap failed, which is seen at its end."""
        if self.made.done():
            raise ValueError
        self.made.set_result(None)

    def fail(self, why: str) -> None:
        self._refuse(
            unavailable(
                f"bwrap could not be started ({why})",
                "see that the limits on processes and open files leave room, and that nothing "
                "else changes the control groups of the service",
            )
        )
        self._end()

    def finish(self, _status: int, cpu_us: int, most_bytes: int, starved: int) -> None:
        self.usage = Usage(cpu_us / 1e6, most_bytes)
        self.starved = bool(starved)
        self._end()

    def lose(self, why: str) -> None:
        self.lost = why
        self._refuse(SandboxUnavailable(why))
        self._end()

    def _refuse(self, error: SandboxUnavailable) -> None:
        if not self.made.done():
            self.made.set_exception(error)
            self.made.exception()  # nobody may be waiting any more

    def _end(self) -> None:
        self.over = True
        self.ended.set()
        for action in self._at_end:
            action()
