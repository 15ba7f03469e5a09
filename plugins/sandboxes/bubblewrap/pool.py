"""A few sandboxes that wait with an interpreter started; each serves one run and is gone."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from appliance.errors import ApplianceError

_MOST_AGE_S = 300.0
_CALM_S = 0.1
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 300.0

log = logging.getLogger(__name__)


class Waiting(Protocol):
    """A sandbox that waits for its run. `born` is when, on the monotonic clock."""

    born: float

    @property
    def waits(self) -> bool:
        """Whether it still does."""
        ...

    async def end(self) -> None:
        """Kill what is left of it and let go of everything."""
        ...


SandboxT = TypeVar("SandboxT", bound=Waiting)


class Pool(Generic[SandboxT]):
    """Kept full by a task of its own, from `start` to `close`.

    `make` gives one more waiting sandbox; it raises ApplianceError if it can't. `active` is
    the number of runs, `most_active` how many may go on beside the making of a sandbox and
    this included; `moved` is to be called when one began or ended.
    """

    def __init__(
        self,
        size: int,
        make: Callable[[], Awaitable[SandboxT]],
        active: Callable[[], int],
        most_active: int,
    ) -> None:
        self._size = size
        self._make = make
        self._active = active
        self._most_active = most_active
        self._idle: list[SandboxT] = []
        self._moved = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def idle(self) -> int:
        """How many wait."""
        return len(self._idle)

    def start(self, at_most: int) -> None:
        """Begin to fill it; never with more than that, however large it was to be."""
        self._size = min(self._size, at_most)
        if self._size > 0 and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    def moved(self) -> None:
        self._moved.set()

    def take(self) -> SandboxT | None:
        """The one that has waited longest, if any waits: it is the caller's from now on."""
        self._moved.set()
        for sandbox in self._idle:
            if sandbox.waits:
                self._idle.remove(sandbox)
                return sandbox
        return None

    def put_back(self, sandbox: SandboxT) -> None:
        """One that was taken and not used."""
        self._idle.append(sandbox)
        self._moved.set()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        while self._idle:
            await self._idle.pop().end()

    async def _keep(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            self._moved.clear()
            await self._sort_out()
            if len(self._idle) >= self._size or self._active() >= self._most_active:
                await self._wait(_MOST_AGE_S / 4)
                continue
            if self._active() and not await self._wait(_CALM_S):
                continue  # a short run is not kept from its processor
            try:
                self._idle.append(await self._make())
                pause_s = _FIRST_PAUSE_S
            except (ApplianceError, OSError) as error:
                log.warning("no sandbox could be made to wait for a run: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    async def _wait(self, seconds: float) -> bool:
        """Whether that long nothing moved."""
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            return True
        return False

    async def _sort_out(self) -> None:
        """End those that are dead, old, or too many."""
        oldest = time.monotonic() - _MOST_AGE_S
        for sandbox in list(self._idle):
            fits = sandbox.waits and sandbox.born > oldest and len(self._idle) <= self._size
            if fits or sandbox not in self._idle:
                continue
            self._idle.remove(sandbox)
            try:
                await sandbox.end()
            except ApplianceError as error:
                log.warning("a sandbox that waited does not end: %s", error.message)
