"""One run, from outside: it is fed, read, timed and ended here."""

import asyncio
import os
from collections.abc import Callable, Iterable

from appliance.domain.execution import EndReason, Limits, OutputStream, RunRequest
from appliance.errors import SandboxUnavailable
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage.output import CappedOutput
from plugins._shared.stage.pipes import PipeReader, PipeWriter, write_all
from plugins._shared.stage.report import Report
from plugins._shared.stage.shield import patiently
from plugins.sandboxes.bubblewrap.runs.process_tree import Tree
from plugins.sandboxes.bubblewrap.runs.spawner import Child

# These bound the sandbox's own work, on a machine as busy as it may be.
_SET_UP_S = 30.0
_COLLECT_S = 30.0
_DRAIN_S = 5.0
_LOG_BYTES = 8192
# Of a sandbox that waits: nothing in it may say anything but that.
_NOTHING_YET = Limits(output_killed_bytes=0, artifact_bytes=0, artifact_files=0)


class Run:
    """Created with a sandbox that waits for its job; `play` does the rest, once.

    Then `over` is set, `killed` says why we ended it, if we did; `report`, `out` and `err`
    hold what came out, `log` what the sandbox itself had to say. `at_exit` is called when
    the sandbox has ended.
    """

    def __init__(self, child: Child, at_exit: Callable[[], None] | None = None) -> None:
        self.over = asyncio.Event()
        self.killed: EndReason | None = None
        self.late = False
        self.wall_s = 0.0
        self.tree = Tree(child, self._note)
        self.report = Report(_NOTHING_YET)
        self.out = CappedOutput(0)
        self.err = CappedOutput(0)
        self.log = CappedOutput(_LOG_BYTES)
        self._limits = _NOTHING_YET
        self._watcher: RunWatcher | None = None
        self._at_exit = at_exit
        self._told = False
        self._moved = asyncio.Event()
        self._inputs = {name: child.fds[name] for name in ("job", "stdin")}
        self._writers: list[PipeWriter] = []
        self._readers = [
            PipeReader(child.fds["report"], self._take_report, self._note),
            PipeReader(child.fds["stdout"], self._taker(OutputStream.STDOUT), self._note),
            PipeReader(child.fds["stderr"], self._taker(OutputStream.STDERR), self._note),
            PipeReader(child.fds["log"], self.log.add, self._note),
        ]

    def kill(self, reason: EndReason) -> None:
        """End it for this reason, unless the program is over already."""
        if self.killed is None and self.report.ended is None:
            self.killed = reason
        self.tree.kill()

    @property
    def waits(self) -> bool:
        """Whether it still waits for its job, with an interpreter ready."""
        return self.report.waiting and self.killed is None and not self.tree.exited

    @property
    def in_vain(self) -> bool:
        """Once it is over: whether it ended before its program began, and not at our word."""
        report = self.report
        return not (report.started or report.failure or self.killed or self.tree.starved)

    async def prepare(self, word: bytes) -> None:
        """Let it make an interpreter ready for its job. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(_SET_UP_S):
                await write_all(self._inputs["job"], word)
                await self._until(lambda: self.report.waiting, _SET_UP_S)
        except (OSError, TimeoutError):
            pass  # told below
        if not self.waits:
            said = self.log.value().decode(errors="replace").strip() or self.report.failure
            raise SandboxUnavailable(f"a sandbox that was to wait for a run has ended: {said}")

    async def play(
        self, request: RunRequest, watcher: RunWatcher | None, job: Iterable[bytes]
    ) -> None:
        """See it through, to the death of everything in it.

        Raises SandboxUnavailable if it can't be set up or ended in time.
        """
        self._limits = request.limits
        self._watcher = watcher
        self.report = Report(request.limits)
        self.out = CappedOutput(request.limits.output_kept_bytes)
        self.err = CappedOutput(request.limits.output_kept_bytes)
        try:
            await self._set_up(request.stdin, job)
            await self._see_through()
        finally:
            _, cancelled = await patiently(self.close())
        if cancelled:
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Kill what is alive, read what is left, let go of everything."""
        await self.tree.end()
        await self._until(lambda: all(reader.ended for reader in self._readers), _DRAIN_S)
        for end in (*self._readers, *self._writers):
            end.close()
        for fd in self._inputs.values():
            os.close(fd)
        self._inputs.clear()
        self.over.set()

    async def _set_up(self, stdin: bytes, job: Iterable[bytes]) -> None:
        self._feed("job", job)
        self._feed("stdin", [stdin])
        begun = await self._until(lambda: self.report.started, _SET_UP_S)
        if not begun and not self.tree.exited:
            raise SandboxUnavailable(f"a sandbox was not set up within {_SET_UP_S:.0f} s")

    async def _see_through(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        wall_s = self._limits.wall_s
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

    def _note(self) -> None:
        self._moved.set()
        if self.tree.exited and self._at_exit is not None:
            self._at_exit()

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
        def take(data: bytes) -> None:
            (self.out if stream is OutputStream.STDOUT else self.err).add(data)
            if self._watcher is not None:
                self._tell_start()  # its first words may arrive before the word that it began
                self._watcher.output(stream, data)
            if self.out.total + self.err.total > self._limits.output_killed_bytes:
                self.kill(EndReason.OUTPUT)

        return take
