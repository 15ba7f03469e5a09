"""A few sandboxes that wait, some for each kind of program; each serves one run and is gone."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from appliance.errors import ApplianceError
from plugins._shared.stage.prewarm_setup import Readiness

_MOST_AGE_S = 300.0
_REMEMBERED_S = 900.0
_CALM_S = 0.1
_SOON_S = 0.001
_FIRST_PAUSE_S = 1.0
_LAST_PAUSE_S = 300.0

_ALWAYS = Readiness.PYTHON
# Which serve a program as well when none of its own kind waits. A Node costs most to make.
_INSTEAD = (Readiness.ANY, Readiness.PYTHON)

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

    `size` is how many wait of each kind: for Python always, of the others while there are
    such runs. `make` gives one more; it raises ApplianceError if it can't. `active` is the
    number of runs, `most_active` how many may go on beside the making of a sandbox and this
    included; `moved` is to be called when one began or ended.
    """

    def __init__(
        self,
        size: int,
        make: Callable[[Readiness], Awaitable[SandboxT]],
        active: Callable[[], int],
        most_active: int,
    ) -> None:
        self._size = size
        self._at_most = 0
        self._make = make
        self._active = active
        self._most_active = most_active
        self._idle: list[tuple[Readiness, SandboxT]] = []
        self._asked: dict[Readiness, float] = {}
        # Until when no more are to be made of a kind, and how long that pause is.
        self._failed: dict[Readiness, tuple[float, float]] = {}
        self._moved = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    def waiting(self, readiness: Readiness) -> int:
        """How many wait of that kind."""
        return sum(kind is readiness for kind, _ in self._idle)

    def start(self, at_most: int) -> None:
        """Begin to fill it; never with more than that of all kinds together."""
        self._at_most = at_most
        if self._size > 0 and at_most > 0 and self._keeping is None:
            self._keeping = asyncio.create_task(self._keep())

    def moved(self) -> None:
        self._moved.set()

    def take(self, readiness: Readiness) -> tuple[Readiness, SandboxT] | None:
        """One that serves that kind of program, if any waits, and its own kind.

        Of several it is the one that has waited longest; it is the caller's from now on.
        """
        if self._keeping is None:
            return None  # a run of the box's own, which says nothing of what will be asked for
        self._asked.pop(readiness, None)
        self._asked[readiness] = time.monotonic()
        self._moved.set()
        for kind in (readiness, *_INSTEAD):
            for each in self._idle:
                if each[0] is kind and each[1].waits:
                    self._idle.remove(each)
                    return each
        return None

    def put_back(self, readiness: Readiness, sandbox: SandboxT) -> None:
        """One that was taken and not used."""
        self._idle.append((readiness, sandbox))
        self._moved.set()

    async def close(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        while self._idle:
            _, sandbox = self._idle.pop()
            await sandbox.end()

    async def _keep(self) -> None:
        while True:
            self._moved.clear()
            await self._sort_out()
            missing = self._missing()
            if missing is None or self._active() >= self._most_active:
                await self._wait(self._patience_s())
                continue
            if self._active() and not await self._wait(_CALM_S):
                continue  # a short run is not kept from its processor
            await self._add(missing)

    async def _add(self, readiness: Readiness) -> None:
        try:
            self._idle.append((readiness, await self._make(readiness)))
        except (ApplianceError, OSError) as error:
            log.warning("no sandbox could be made to wait for a run: %s", error)
            _, pause_s = self._failed.get(readiness, (0.0, _FIRST_PAUSE_S / 2))
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)
            self._failed[readiness] = (time.monotonic() + pause_s, pause_s)
        else:
            self._failed.pop(readiness, None)

    def _patience_s(self) -> float:
        """How long nothing is to be done by itself."""
        now = time.monotonic()
        pauses = [until - now for until, _ in self._failed.values()]
        return max(_SOON_S, min([_MOST_AGE_S / 4, *pauses]))

    async def _wait(self, seconds: float) -> bool:
        """Whether that long nothing moved."""
        try:
            async with asyncio.timeout(seconds):
                await self._moved.wait()
        except TimeoutError:
            return True
        return False

    def _wanted(self) -> list[Readiness]:
        """The kinds that are to wait, those asked for last first."""
        since = time.monotonic() - _REMEMBERED_S
        asked = [kind for kind, at in reversed(self._asked.items()) if at > since]
        return asked if _ALWAYS in asked else [*asked, _ALWAYS]

    def _missing(self) -> Readiness | None:
        """Of which kind one more is to be made. Where there is no room for all, each gets one."""
        if len(self._idle) >= self._at_most:
            return None
        now = time.monotonic()
        paused = {kind for kind, (until, _) in self._failed.items() if until > now}
        short = [kind for kind in self._wanted() if self.waiting(kind) < self._size]
        return min((kind for kind in short if kind not in paused), key=self.waiting, default=None)

    async def _sort_out(self) -> None:
        """End those that are dead, old, no longer asked for, or too many."""
        oldest = time.monotonic() - _MOST_AGE_S
        wanted = self._wanted()
        for each in list(self._idle):
            kind, sandbox = each
            few = self.waiting(kind) <= self._size and len(self._idle) <= self._at_most
            fits = sandbox.waits and sandbox.born > oldest and kind in wanted and few
            if fits or each not in self._idle:
                continue
            self._idle.remove(each)
            try:
                await sandbox.end()
            except ApplianceError as error:
                log.warning("a sandbox that waited does not end: %s", error.message)
