"""One run, on the service's side: sends its job and input, reads its output, enforces limits."""

import asyncio
import os
from collections.abc import Callable, Iterable

from appliance.domain.execution import (
    BuildStep,
    EndReason,
    Limits,
    OutputStream,
    RunRequest,
    WorkspaceReport,
)
from appliance.errors import SandboxUnavailable
from appliance.spi.cancellation import run_deferring_cancellation
from appliance.spi.sandbox import RunWatcher
from plugins._shared.stage.archive_receiver import ArchiveReceiver, create_receiver
from plugins._shared.stage.report import Report, workspace_report
from plugins._shared.stage.streams import CappedOutput, PipeReader, PipeWriter, write_all
from plugins.sandboxes.bubblewrap.runs.process_tree import ProcessTree
from plugins.sandboxes.bubblewrap.runs.spawner import SandboxPipes

# For the sandbox's own work; long, since the machine may be busy.
_SETUP_S = 30.0
_COLLECT_S = 30.0
_DRAIN_S = 5.0
_LOG_BYTES = 8192
# Before the job is sent: no output and no artifacts are expected.
_IDLE_LIMITS = Limits(output_killed_bytes=0, artifact_bytes=0, artifact_files=0)


class Run:
    """Created with a sandbox that waits for its job. `execute` and `close` are called once.

    Afterwards, `done` is set and `kill_reason` says why the service killed it, if it did. `report`,
    `out` and `err` hold the results, `log` the messages of bwrap and of the stage. `on_exit` is
    called when the sandbox has exited.
    """

    def __init__(self, pipes: SandboxPipes, on_exit: Callable[[], None] | None = None) -> None:
        self.done = asyncio.Event()
        self.kill_reason: EndReason | None = None
        self.collecting_timed_out = False
        self.build_wall_s = self.wall_s = 0.0
        self.tree = ProcessTree(pipes, self._notify)
        self.report = Report(_IDLE_LIMITS)
        self.out = CappedOutput(0)
        self.err = CappedOutput(0)
        self.log = CappedOutput(_LOG_BYTES)
        self.receiver: ArchiveReceiver | None = None
        self._transfer_s = 0.0
        self._limits = _IDLE_LIMITS
        self._watcher: RunWatcher | None = None
        self._on_exit = on_exit
        self._start_reported = False
        self._changed = asyncio.Event()
        self._inputs = {name: pipes.fds[name] for name in ("job", "stdin")}
        self._writers: list[PipeWriter] = []
        self._readers = [
            PipeReader(pipes.fds["report"], self._handle_report, self._notify),
            PipeReader(
                pipes.fds["stdout"], self._output_handler(OutputStream.STDOUT), self._notify
            ),
            PipeReader(
                pipes.fds["stderr"], self._output_handler(OutputStream.STDERR), self._notify
            ),
            PipeReader(pipes.fds["log"], self.log.add, self._notify),
        ]

    def kill(self, reason: EndReason) -> None:
        """Kill it. The reason counts unless the program has ended already."""
        if self.kill_reason is None and self.report.exit is None:
            self.kill_reason = reason
        self.tree.kill()

    @property
    def is_idle(self) -> bool:
        """Whether it is prewarmed and still waits for its job."""
        return self.report.prewarmed and self.kill_reason is None and not self.tree.exited

    @property
    def never_started(self) -> bool:
        """After the exit: whether it ended before its program started, and was not killed."""
        report = self.report
        return not (report.started or report.failure or self.kill_reason or self.tree.oom_killed)

    async def prewarm(self, request: bytes) -> None:
        """Have the stage start an interpreter that waits. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(_SETUP_S):
                await write_all(self._inputs["job"], request)
                await self._wait_until(lambda: self.report.prewarmed, _SETUP_S)
        except (OSError, TimeoutError):
            pass  # reported below
        if not self.is_idle:
            reason = self.log.value().decode(errors="replace").strip() or self.report.failure
            raise SandboxUnavailable(f"a prewarmed sandbox has ended: {reason}")

    async def execute(
        self, request: RunRequest, watcher: RunWatcher | None, job: Iterable[bytes]
    ) -> None:
        """Run the program, and return when all processes of the sandbox have ended.

        Raises SandboxUnavailable if the sandbox does not start or end in time.
        """
        self._limits = request.limits
        self._watcher = watcher
        self.receiver = create_receiver(request.workspace, request.limits)
        if self.receiver is not None:
            self.receiver.on_pause = self._readers[0].set_paused
            self._transfer_s = self.receiver.transfer_s
        self.report = Report(request.limits, self.receiver)
        self.out = CappedOutput(request.limits.output_kept_bytes)
        self.err = CappedOutput(request.limits.output_kept_bytes)
        try:
            await self._send_job(request.stdin, job)
            await self._wait_for_program(request.build)
        finally:
            _, cancelled = await run_deferring_cancellation(self.close())
        if cancelled:
            raise asyncio.CancelledError

    @property
    def workspace(self) -> WorkspaceReport | None:
        """What became of the workspace, if the run keeps it."""
        return workspace_report(self.report, self.receiver)

    async def close(self) -> None:
        """Kill all processes, read the remaining output, and close the pipes."""
        await self.tree.end()
        await self._wait_until(lambda: all(reader.ended for reader in self._readers), _DRAIN_S)
        for pipe in (*self._readers, *self._writers):
            pipe.close()
        for fd in self._inputs.values():
            os.close(fd)
        self._inputs.clear()
        if self.receiver is not None:
            await self.receiver.finish(complete=self.report.archive_complete)
        self.done.set()

    async def _send_job(self, stdin: bytes, job: Iterable[bytes]) -> None:
        self._feed("job", job, keep_open=self.receiver is not None)
        self._feed("stdin", [stdin])
        setup_s = _SETUP_S + self._transfer_s
        started = await self._wait_until(lambda: self.report.started, setup_s)
        if not started and not self.tree.exited:
            raise SandboxUnavailable(f"a sandbox was not set up within {setup_s:.0f} s")

    async def _wait_for_program(self, build: BuildStep | None) -> None:
        if build is not None:
            self.build_wall_s = await self._limit_wall_time(
                lambda: self.report.build is not None, build.wall_s
            )
        self.wall_s = await self._limit_wall_time(
            lambda: self.report.exit is not None, self._limits.wall_s
        )
        if not await self._wait_until(lambda: self.tree.exited, _COLLECT_S + self._transfer_s):
            self.collecting_timed_out = True

    async def _limit_wall_time(self, ended: Callable[[], bool], seconds: float) -> float:
        """Wait until it has ended or the time is over, and kill the run then; seconds waited."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        if not await self._wait_until(ended, seconds):
            self._end_program(EndReason.WALL_TIME)
        return loop.time() - start

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return whether the condition holds, or the sandbox has exited, within that time."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self.tree.exited and all(reader.ended for reader in self._readers):
                        break
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _end_program(self, reason: EndReason) -> None:
        """Kill the run, or the program alone if its workspace is to be saved."""
        if self.receiver is None or not self.report.started:
            self.kill(reason)
        elif self.kill_reason is None and self.report.exit is None:
            self.kill_reason = reason
            self._writers[0].close()  # the job's: the init process ends the program

    def _feed(self, name: str, pieces: Iterable[bytes], *, keep_open: bool = False) -> None:
        self._writers.append(PipeWriter(self._inputs.pop(name), pieces, keep_open=keep_open))

    def _notify(self) -> None:
        self._changed.set()
        if self.tree.exited and self._on_exit is not None:
            self._on_exit()

    def _handle_report(self, data: bytes) -> None:
        self.report.feed(data)
        if self.report.malformed:
            self.kill(EndReason.SIGNALLED)
        if self.report.started:
            self._report_start()
        self._notify()

    def _report_start(self) -> None:
        if self._watcher is not None and not self._start_reported:
            self._start_reported = True
            self._watcher.started()

    def _output_handler(self, stream: OutputStream) -> Callable[[bytes], None]:
        def handle(data: bytes) -> None:
            (self.out if stream is OutputStream.STDOUT else self.err).add(data)
            if self._watcher is not None:
                self._report_start()  # output may arrive before the report that it started
                self._watcher.output(stream, data)
            if self.out.total + self.err.total > self._limits.output_killed_bytes:
                self._end_program(EndReason.OUTPUT)

        return handle
