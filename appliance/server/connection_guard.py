"""Looks at every connection again and again, and ends those over a limit.

Granian closes a connection that is idle for too long. It has no deadline for a header that
trickles in, nor for a client that doesn't read, and no limit per address. The guard knows from
the kernel's counters how much a connection received and how much the client acknowledged, and
from ConnectionRequests whether a request is in progress. It runs in the event loop, in steps of
half a millisecond: a thread would wait for the GIL at each system call.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from appliance import telemetry
from appliance.api.http.proxies import TrustedProxies
from appliance.config.settings import ServerSettings
from appliance.server.connection import Connection, EndReason
from appliance.server.connection_limits import Excess, find_excess
from appliance.server.connection_requests import ConnectionRequests
from appliance.server.connection_table import ConnectionTable
from appliance.server.ended_connections import EndedConnections
from appliance.server.open_sockets import OpenSockets, Peer, descriptor_slots

log = structlog.get_logger()

_STEP_S = 0.0005
_MIN_INTERVAL_S, _MAX_INTERVAL_S = 0.02, 0.5
_LONGEST_INTERVAL_S = 1.0
# Of the event loop's time: with few new connections, and with many.
_CALM_SHARE, _BUSY_SHARE = 0.02, 0.2
_RESERVED_SHARE = 0.25  # of the capacity, for what is accepted between two looks
# Hostile clients connect again at once, and cost more then than while they wait.
_PACED = frozenset({EndReason.SLOW_HEADER, EndReason.ADDRESS_LIMIT})
_PACED_PER_S = 100.0


class ConnectionGuard:
    """Enforces the limits of [server] on the connections accepted at `port`.

    `capacity` is the number of connections at which the server accepts no more.
    """

    def __init__(
        self,
        requests: ConnectionRequests,
        settings: ServerSettings,
        port: int,
        capacity: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._settings = settings
        self._capacity = capacity
        self._total = min(settings.connections, round(capacity * (1 - _RESERVED_SHARE)))
        self._clock = clock
        self._proxies = TrustedProxies(settings.trusted_proxies)
        self._sockets = OpenSockets()
        self._table = ConnectionTable(self._sockets, port)
        self._ended = EndedConnections()
        self._looked_at = clock()
        self._paced_left = 0
        self._interval_s = _MAX_INTERVAL_S
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._sockets.is_supported():
            self._task = asyncio.create_task(self._run())
        else:
            log.warning("connections have no limits: the kernel lacks SO_COOKIE or TCP_INFO")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            try:
                await self.look()
            except OSError as error:
                log.error("connections can't be checked", reason=str(error))

    async def look(self) -> None:
        """Look at every connection once and end those over a limit."""
        now, known = self._clock(), self._table.added
        elapsed, self._looked_at = max(now - self._looked_at, _MIN_INTERVAL_S), now
        self._paced_left = max(1, round(elapsed * _PACED_PER_S))
        # Taken before the counters are read: a request that ends meanwhile counts at the next look.
        advanced = self._requests.take_advanced()
        steps = _Steps()
        for descriptor in range(descriptor_slots()):
            connection = self._table.refresh(descriptor, now)
            if connection is not None:
                reason = self._check(connection, advanced, now, elapsed)
                if reason is not None:
                    self._end(connection, reason)
            await steps.pause()
        for connection, reason in self._find_excess():
            if not self._requests.is_served(connection.peer):
                self._end(connection, reason)
            await steps.pause()
        self._ended.log(now)
        telemetry.set_connections(len(self._table))
        self._interval_s = self._next_interval(steps.busy_s, (self._table.added - known) / elapsed)

    def _next_interval(self, busy_s: float, new_per_s: float) -> float:
        """Seconds until the next look: short enough that what is free is not used up before."""
        longest = min(_LONGEST_INTERVAL_S, max(_MAX_INTERVAL_S, busy_s / _CALM_SHARE))
        shortest = max(_MIN_INTERVAL_S, busy_s / _BUSY_SHARE)
        free = max(0, self._capacity - len(self._table))
        wanted = _RESERVED_SHARE * free / new_per_s if new_per_s else longest
        return max(shortest, min(longest, wanted))

    def _check(
        self, connection: Connection, advanced: set[Peer], now: float, elapsed_s: float
    ) -> EndReason | None:
        counters = self._sockets.counters(connection.descriptor)
        if counters is None:
            return None  # closed since its cookie was read
        peer, settings = connection.peer, self._settings
        reason = connection.check_reading(counters, now, settings)
        if reason is not None:
            return reason
        if self._requests.is_websocket(peer) and peer not in advanced:
            return connection.check_websocket(counters, elapsed_s, settings)
        if self._requests.in_progress(peer) or peer in advanced:
            connection.mark_handled(counters, now)
            return None
        return connection.check_idle(counters, now, settings)

    def _find_excess(self) -> list[Excess]:
        limit = self._settings.connections_per_address
        if len(self._table) <= self._total and self._table.largest <= limit:
            return []
        return find_excess(
            self._table.by_address(),
            per_address=limit,
            total=self._total,
            is_idle=lambda connection: not self._requests.is_served(connection.peer),
            is_exempt=self._proxies.trusts,
        )

    def _end(self, connection: Connection, reason: EndReason) -> None:
        if reason in _PACED:
            if not self._paced_left:
                return
            self._paced_left -= 1
        if self._sockets.end(connection.descriptor, connection.cookie):
            self._ended.add(reason, connection.address)
        self._table.ignore(connection)


class _Steps:
    """Lets the event loop do other work whenever a step has taken _STEP_S."""

    def __init__(self) -> None:
        self._busy_s = 0.0
        self._started = time.perf_counter()

    @property
    def busy_s(self) -> float:
        return self._busy_s + time.perf_counter() - self._started

    async def pause(self) -> None:
        step = time.perf_counter() - self._started
        if step > _STEP_S:
            self._busy_s += step
            await asyncio.sleep(0)
            self._started = time.perf_counter()
