"""Keeps idle sandboxes, a number of each kind in demand; each serves one run.

A kind is in demand for a time after it was last requested; one kind always is. Sandboxes are
created one at a time and only while few runs are active, since each takes a processor for a
moment. A kind that could not be created is retried with exponential backoff.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, Protocol, TypeVar

from appliance.errors import ApplianceError
from plugins._shared.stage.prewarm_setup import PrewarmKind

_MAX_AGE_S = 300.0
_DEMAND_S = 900.0
_QUIET_S = 0.1
_MIN_CHECK_S = 0.001
_MIN_BACKOFF_S = 1.0
_MAX_BACKOFF_S = 300.0

_ALWAYS_IN_DEMAND = PrewarmKind.PYTHON
# Kinds that serve a program when none of its own kind is idle. Not Node: it costs most to create.
_FALLBACKS = (PrewarmKind.ANY, PrewarmKind.PYTHON)

log = logging.getLogger(__name__)


class IdleSandbox(Protocol):
    """A sandbox that waits for its run. `created_at` is on the monotonic clock."""

    created_at: float

    @property
    def is_idle(self) -> bool:
        """Whether it still waits: False once it has ended."""
        ...

    async def discard(self) -> None:
        """Kill its processes and release everything."""
        ...


SandboxT = TypeVar("SandboxT", bound=IdleSandbox)


class IdlePool(Generic[SandboxT]):
    """Filled by a task, from `start` to `close`.

    `size` is the number of idle sandboxes of each kind in demand. `create` makes one more and may
    raise ApplianceError. `active` returns the number of runs; none is created while there are
    `max_active`. Call `notify` when a run starts or ends.
    """

    def __init__(
        self,
        size: int,
        create: Callable[[PrewarmKind], Awaitable[SandboxT]],
        active: Callable[[], int],
        max_active: int,
    ) -> None:
        self._size = size
        self._max_idle = 0
        self._create = create
        self._active = active
        self._max_active = max_active
        self._idle: list[tuple[PrewarmKind, SandboxT]] = []
        self._last_requests: dict[PrewarmKind, float] = {}
        # When to retry a kind that could not be created, and the delay before that.
        self._backoffs: dict[PrewarmKind, tuple[float, float]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def count_idle(self, kind: PrewarmKind) -> int:
        return sum(each is kind for each, _ in self._idle)

    def start(self, max_idle: int) -> None:
        """Start to fill the pool, with at most this many sandboxes of all kinds together."""
        self._max_idle = max_idle
        if self._size > 0 and max_idle > 0 and self._task is None:
            self._task = asyncio.create_task(self._maintain())

    def notify(self) -> None:
        self._changed.set()

    def take(self, requested: PrewarmKind) -> tuple[PrewarmKind, SandboxT] | None:
        """Remove and return the oldest sandbox that serves this kind, with its own kind.

        None if none is idle.
        """
        if self._task is None:
            return None  # a run of the probe is no demand
        self._last_requests.pop(requested, None)
        self._last_requests[requested] = time.monotonic()
        self._changed.set()
        for kind in (requested, *_FALLBACKS):
            for entry in self._idle:
                if entry[0] is kind and entry[1].is_idle:
                    self._idle.remove(entry)
                    return entry
        return None

    def put_back(self, kind: PrewarmKind, sandbox: SandboxT) -> None:
        """Return a sandbox that was taken and not used."""
        self._idle.append((kind, sandbox))
        self._changed.set()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        while self._idle:
            _, sandbox = self._idle.pop()
            await sandbox.discard()

    async def _maintain(self) -> None:
        while True:
            self._changed.clear()
            await self._evict()
            kind = self._next_to_create()
            if kind is None or self._active() >= self._max_active:
                await self._stays_quiet(self._next_check_s())
                continue
            if self._active() and not await self._stays_quiet(_QUIET_S):
                continue  # don't compete with short runs for processors
            await self._create_one(kind)

    async def _create_one(self, kind: PrewarmKind) -> None:
        try:
            self._idle.append((kind, await self._create(kind)))
        except (ApplianceError, OSError) as error:
            log.warning("a sandbox could not be prewarmed: %s", error)
            _, delay_s = self._backoffs.get(kind, (0.0, _MIN_BACKOFF_S / 2))
            delay_s = min(2 * delay_s, _MAX_BACKOFF_S)
            self._backoffs[kind] = (time.monotonic() + delay_s, delay_s)
        else:
            self._backoffs.pop(kind, None)

    def _next_check_s(self) -> float:
        """Seconds until a retry or an eviction may be due."""
        now = time.monotonic()
        delays = [until - now for until, _ in self._backoffs.values()]
        return max(_MIN_CHECK_S, min([_MAX_AGE_S / 4, *delays]))

    async def _stays_quiet(self, seconds: float) -> bool:
        """Return whether there was no notification for that long."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return True
        return False

    def _kinds_in_demand(self) -> list[PrewarmKind]:
        """The last requested first."""
        since = time.monotonic() - _DEMAND_S
        kinds = [kind for kind, at in reversed(self._last_requests.items()) if at > since]
        return kinds if _ALWAYS_IN_DEMAND in kinds else [*kinds, _ALWAYS_IN_DEMAND]

    def _next_to_create(self) -> PrewarmKind | None:
        """The kind in demand with the fewest idle sandboxes; None if none is to be created."""
        if len(self._idle) >= self._max_idle:
            return None
        now = time.monotonic()
        delayed = {kind for kind, (until, _) in self._backoffs.items() if until > now}
        lacking = [kind for kind in self._kinds_in_demand() if self.count_idle(kind) < self._size]
        return min(
            (kind for kind in lacking if kind not in delayed), key=self.count_idle, default=None
        )

    async def _evict(self) -> None:
        """Discard sandboxes that have ended, are too old, not in demand, or too many."""
        oldest = time.monotonic() - _MAX_AGE_S
        demand = self._kinds_in_demand()
        for entry in list(self._idle):
            kind, sandbox = entry
            few = self.count_idle(kind) <= self._size and len(self._idle) <= self._max_idle
            keep = sandbox.is_idle and sandbox.created_at > oldest and kind in demand and few
            if keep or entry not in self._idle:
                continue
            self._idle.remove(entry)
            try:
                await sandbox.discard()
            except ApplianceError as error:
                log.warning("an idle sandbox did not end: %s", error.message)
