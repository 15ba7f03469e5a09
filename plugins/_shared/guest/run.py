"""One run in a guest, from outside: it is fed, read, timed and ended here."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from appliance.domain.execution import EndReason, OutputStream, RunRequest
from appliance.errors import SandboxUnavailable
from appliance.spi.sandbox import RunWatcher
from plugins._shared.guest.channel import Channel
from plugins._shared.guest.frames import Incoming, outgoing
from plugins._shared.stage.output import CappedOutput
from plugins._shared.stage.report import Report
from plugins._shared.stage.shield import patiently

# These bound the sandbox's own work, on a machine as busy as it may be.
_SET_UP_S = 60.0
_COLLECT_S = 30.0
_DRAIN_S = 5.0
_TICK_S = 0.1

_STREAMS = {b"O": OutputStream.STDOUT, b"E": OutputStream.STDERR}


class Guest(Protocol):
    """What holds the run on the host: a process tree that the backend owns."""

    def kill(self) -> None:
        """Begin to end it; returns at once. May be called at any time and again."""
        ...

    async def end(self) -> None:
        """Kill it, and return when all of it is dead and reaped.

        Raises SandboxUnavailable if the kernel does not let go of it.
        """
        ...

    def cpu_us(self) -> int:
        """Microseconds of the host's processors that all of it has used; 0 if nobody counts.

        To be asked at any time, its end included.
        """
        ...


class GuestRun:
    """Created with a guest whose agent waits for its job; `play` does the rest, once.

    Then `over` is set, `killed` says why we ended it, if we did; `report`, `out` and `err`
    hold what came out. `source` and `sink` are the ends of the channel, two descriptors
    that belong to the run from now on. `set_up_s` is how long the guest may take until the
    program starts, unpacking the files included. `hold_cpu` has the limit of processor time
    held from here, by what the guest uses of the host's from the program's start on: for
    guests whose own account is wrong. That is `cpu_s`, in any case; 0 where nobody counts.
    """

    def __init__(
        self,
        guest: Guest,
        source: int,
        sink: int,
        request: RunRequest,
        watcher: RunWatcher | None = None,
        *,
        set_up_s: float = _SET_UP_S,
        hold_cpu: bool = False,
    ) -> None:
        self.over = asyncio.Event()
        self.killed: EndReason | None = None
        self.late = False
        self.wall_s = 0.0
        self.cpu_s = 0.0
        self.report = Report(request.limits)
        self.out = CappedOutput(request.limits.output_kept_bytes)
        self.err = CappedOutput(request.limits.output_kept_bytes)
        self._guest = guest
        self._request = request
        self._watcher = watcher
        self._set_up_s = set_up_s
        self._hold_cpu = hold_cpu
        self._cpu_before_us: int | None = None
        self._told = False
        self._moved = asyncio.Event()
        self._frames = Incoming(self._take)
        self._channel = Channel(source, sink, self._feed, self._moved.set)

    @property
    def broken(self) -> bool:
        """What came from the guest was not what an agent and a stage say."""
        return self.report.broken or self._frames.broken

    def kill(self, reason: EndReason) -> None:
        """End it for this reason, unless the program is over already."""
        if self.killed is None and self.report.ended is None:
            self.killed = reason
        self._guest.kill()

    async def play(self, job: Iterable[bytes]) -> None:
        """See it through, to the death of the guest. Cancelling the call ends it as well.

        Raises SandboxUnavailable if it can't be set up or ended in time.
        """
        try:
            self._channel.send(outgoing(job, self._request.stdin))
            await self._set_up()
            await self._see_through()
        finally:
            _, cancelled = await patiently(self.close())
        if cancelled:
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Kill what is alive, read what is left, let go of everything."""
        try:
            await self._guest.end()
            await self._until(lambda: False, _DRAIN_S)
            if self.report.ended is None:
                self._count_cpu()
        finally:
            self._channel.close()
            self.over.set()

    async def _set_up(self) -> None:
        began = await self._until(lambda: self.report.started, self._set_up_s)
        if not began:
            raise SandboxUnavailable(f"a sandbox was not set up within {self._set_up_s:.0f} s")

    async def _see_through(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        deadline = began + self._request.limits.wall_s
        while not await self._until(
            lambda: self.report.ended is not None, self._next_look(deadline - loop.time())
        ):
            if reason := self._excess(deadline - loop.time()):
                self.kill(reason)
                break
        self.wall_s = loop.time() - began
        if not await self._until(lambda: False, _COLLECT_S):
            self.late = True

    def _next_look(self, left_s: float) -> float:
        return max(0.0, min(_TICK_S, left_s) if self._hold_cpu else left_s)

    def _excess(self, left_s: float) -> EndReason | None:
        """Which time the program has used up."""
        if left_s <= 0:
            return EndReason.WALL_TIME
        self._count_cpu()
        return EndReason.CPU_TIME if self.cpu_s >= self._request.limits.cpu_s else None

    def _count_cpu(self) -> None:
        if self._cpu_before_us is not None:
            self.cpu_s = max(0, self._guest.cpu_us() - self._cpu_before_us) / 1e6

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true, or the guest said its last word, within that time."""
        try:
            async with asyncio.timeout(seconds):
                while not (condition() or self._frames.ended or self._channel.ended):
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _feed(self, data: bytes) -> None:
        self._frames.feed(data)
        if self.broken:
            self.kill(EndReason.SIGNALLED)
        self._moved.set()

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind in _STREAMS:
            self._take_output(_STREAMS[kind], payload)
            return
        over = self.report.ended
        self.report.feed(payload)
        if self.report.started and self._cpu_before_us is None:
            self._cpu_before_us = self._guest.cpu_us()
        if self.report.ended is not over:
            self._count_cpu()
        if self.report.started:
            self._tell_start()

    def _take_output(self, stream: OutputStream, data: bytes) -> None:
        (self.out if stream is OutputStream.STDOUT else self.err).add(data)
        if self._watcher is not None:
            self._tell_start()  # its first words may arrive before the word that it began
            self._watcher.output(stream, data)
        if self.out.total + self.err.total > self._request.limits.output_killed_bytes:
            self.kill(EndReason.OUTPUT)

    def _tell_start(self) -> None:
        if self._watcher is not None and not self._told:
            self._told = True
            self._watcher.started()
