"""One run, from outside: it is fed, read, timed and ended here."""

import asyncio
import os
from collections.abc import Callable, Iterable

from appliance.domain.execution import EndReason, OutputStream, RunRequest
from appliance.errors import SandboxUnavailable
from appliance.spi.sandbox import RunWatcher
from plugins.inside.output import CappedOutput
from plugins.inside.patience import patiently
from plugins.inside.pipes import PipeReader, PipeWriter
from plugins.inside.report import Report
from plugins.sandboxes.bubblewrap.child import Tree
from plugins.sandboxes.bubblewrap.spawner import Child

# These bound the sandbox's own work, on a machine as busy as it may be.
_SET_UP_S = 30.0
_COLLECT_S = 30.0
_DRAIN_S = 5.0
_LOG_BYTES = 8192


class Run:
    """Created with a sandbox that waits for its job; `play` does the rest, once.

    Then `over` is set, `killed` says why we ended it, if we did; `report`, `out` and `err`
    hold what came out, `log` what the sandbox itself had to say.
    """

    def __init__(
        self, child: Child, request: RunRequest, watcher: RunWatcher | None = None
    ) -> None:
        self.over = asyncio.Event()
        self.killed: EndReason | None = None
        self.late = False
        self.wall_s = 0.0
        self.group = child.group
        self.tree = Tree(child, self._note)
        self.report = Report(request.limits)
        self.out = CappedOutput(request.limits.output_kept_bytes)
        self.err = CappedOutput(request.limits.output_kept_bytes)
        self.log = CappedOutput(_LOG_BYTES)
        self._request = request
        self._watcher = watcher
        self._told = False
        self._moved = asyncio.Event()
        self._info = CappedOutput(_LOG_BYTES)
        self._inputs = {name: child.fds[name] for name in ("job", "stdin")}
        self._writers: list[PipeWriter] = []
        self._info_reader = PipeReader(child.fds["info"], self._info.add, self._meet)
        self._readers = [
            self._info_reader,
            PipeReader(child.fds["report"], self._take_report, self._note),
            PipeReader(child.fds["stdout"], self._taker(OutputStream.STDOUT), self._note),
            PipeReader(child.fds["stderr"], self._taker(OutputStream.STDERR), self._note),
            PipeReader(child.fds["log"], self.log.add, self._note),
        ]
        self._alarm = child.group.alarm if child.group else None
        if self._alarm is not None:
            asyncio.get_running_loop().add_reader(self._alarm, self._starve)

    def kill(self, reason: EndReason) -> None:
        """End it for this reason, unless the program is over already."""
        if self.killed is None and self.report.ended is None:
            self.killed = reason
        self.tree.kill()

    async def play(self, job: Iterable[bytes]) -> None:
        """See it through, to the death of everything in it.

        Raises SandboxUnavailable if it can't be set up or ended in time.
        """
        try:
            await self._set_up(job)
            await self._see_through()
        finally:
            _, cancelled = await patiently(self.close())
        if cancelled:
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Kill what is alive, read what is left, let go of everything."""
        try:
            await self.tree.end()
        finally:
            self._silence()
        await self._until(lambda: all(reader.ended for reader in self._readers), _DRAIN_S)
        for end in (*self._readers, *self._writers):
            end.close()
        for fd in self._inputs.values():
            os.close(fd)
        self._inputs.clear()
        self.over.set()

    def _starve(self) -> None:
        self._silence()
        self.kill(EndReason.MEMORY)

    def _silence(self) -> None:
        if self._alarm is not None:
            asyncio.get_running_loop().remove_reader(self._alarm)
            self._alarm = None

    async def _set_up(self, job: Iterable[bytes]) -> None:
        met = await self._until(lambda: self._info_reader.ended, _SET_UP_S)
        self._feed("job", job)
        self._feed("stdin", [self._request.stdin])
        begun = met and await self._until(lambda: self.report.started, _SET_UP_S)
        if not begun and not self.tree.exited:
            raise SandboxUnavailable(f"a sandbox was not set up within {_SET_UP_S:.0f} s")

    async def _see_through(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        wall_s = self._request.limits.wall_s
        if not await self._until(lambda: self.report.ended is not None, wall_s):
            self.kill(EndReason.WALL_TIME)
        self.wall_s = loop.time() - began
        if not await self._until(lambda: self.tree.exited, _COLLECT_S):
            self.late = True

    async def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition came true, or the sandbox ended, within that time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self.tree.exited and all(reader.ended for reader in self._readers):
                        break
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True

    def _feed(self, name: str, pieces: Iterable[bytes]) -> None:
        self._writers.append(PipeWriter(self._inputs.pop(name), pieces))

    def _meet(self) -> None:
        self.tree.meet_init(self._info.value())
        self._note()

    def _note(self) -> None:
        self._moved.set()

    def _take_report(self, data: bytes) -> None:
        self.report.feed(data)
        if self.report.broken:
            self.kill(EndReason.SIGNALLED)
        if self.report.started:
            self._tell_start()
        self._note()

    def _tell_start(self) -> None:
        if self._watcher is not None and not self._told:
            self._told = True
            self._watcher.started()

    def _taker(self, stream: OutputStream) -> Callable[[bytes], None]:
        output = self.out if stream is OutputStream.STDOUT else self.err

        def take(data: bytes) -> None:
            output.add(data)
            if self._watcher is not None:
                self._tell_start()  # its first words may arrive before the word that it began
                self._watcher.output(stream, data)
            if self.out.total + self.err.total > self._request.limits.output_killed_bytes:
                self.kill(EndReason.OUTPUT)

        return take
