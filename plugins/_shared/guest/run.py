"""One run in a guest, seen from the host: its input, output, limits and end."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from appliance.domain.execution import (
    BuildStep,
    EndReason,
    OutputStream,
    RunRequest,
    WorkspaceReport,
)
from appliance.errors import SandboxUnavailable
from appliance.spi.cancellation import run_deferring_cancellation
from appliance.spi.sandbox import RunWatcher
from plugins._shared.guest.channel import Channel
from plugins._shared.guest.frames import END_OF_JOB, FrameDecoder, encode_run_input
from plugins._shared.stage.archive_receiver import create_receiver
from plugins._shared.stage.report import Report, workspace_report
from plugins._shared.stage.streams import CappedOutput

# These bound the sandbox's own work on a heavily loaded machine.
_SETUP_S = 60.0
_COLLECT_S = 30.0
_DRAIN_S = 5.0
_TICK_S = 0.1

_STREAMS = {b"O": OutputStream.STDOUT, b"E": OutputStream.STDERR}


class Guest(Protocol):
    """What holds the run on the host: a process tree that the backend owns."""

    def kill(self) -> None:
        """Start to end it and return at once. May be called at any time, and repeatedly."""
        ...

    async def end(self) -> None:
        """Kill it; return when every process of it is dead and reaped.

        Raises SandboxUnavailable if the kernel does not end it.
        """
        ...

    def cpu_us(self) -> int:
        """CPU time on the host of all its processes, in µs; 0 if it is not accounted.

        May be called at any time, also after its end.
        """
        ...


class GuestRun:
    """Created with a guest whose agent waits for its job; call `execute` once.

    Afterwards `finished` is set, `kill_reason` says why the run was killed (None: it was not), and
    `report`, `stdout` and `stderr` hold the results. The run owns `source` and `sink`, the two
    descriptors of the channel. `setup_timeout_s` bounds the time until the program starts,
    including writing the files.

    `cpu_s` is the CPU time that the guest has used on the host since the program started, and
    `build_cpu_s` for the build step before it; 0 if it is not accounted. With `enforce_cpu_limit`
    the limit is enforced by that, for guests whose own accounting is wrong.
    """

    def __init__(
        self,
        guest: Guest,
        source: int,
        sink: int,
        request: RunRequest,
        watcher: RunWatcher | None = None,
        *,
        setup_timeout_s: float = _SETUP_S,
        enforce_cpu_limit: bool = False,
    ) -> None:
        self.finished = asyncio.Event()
        self.kill_reason: EndReason | None = None
        self.collection_timed_out = False
        self.build_wall_s = self.wall_s = 0.0
        self.build_cpu_s = self.cpu_s = 0.0
        transfer = request.workspace
        self.receiver = create_receiver(transfer, request.limits)
        self.report = Report(request.limits, self.receiver)
        self.stdout = CappedOutput(request.limits.output_kept_bytes)
        self.stderr = CappedOutput(request.limits.output_kept_bytes)
        self._guest = guest
        self._request = request
        self._watcher = watcher
        transfer_s = self.receiver.transfer_s if self.receiver is not None else 0.0
        self._setup_timeout_s = setup_timeout_s + transfer_s
        self._collect_timeout_s = _COLLECT_S + transfer_s
        self._enforce_cpu_limit = enforce_cpu_limit
        self._cpu_at_start_us: int | None = None
        self._start_reported = False
        self._changed = asyncio.Event()
        self._decoder = FrameDecoder(self._handle_frame)
        self._channel = Channel(source, sink, self._feed, self._changed.set)
        if self.receiver is not None:
            self.receiver.on_pause = self._channel.set_paused

    @property
    def build_step(self) -> BuildStep | None:
        """The build step of its request."""
        return self._request.build

    @property
    def workspace(self) -> WorkspaceReport | None:
        """What became of the workspace, if the run keeps it."""
        return workspace_report(self.report, self.receiver)

    @property
    def malformed(self) -> bool:
        """Whether the guest sent something that no agent or init process sends."""
        return self.report.malformed or self._decoder.malformed

    def kill(self, reason: EndReason) -> None:
        """Kill it for this reason, unless the program has ended."""
        if self.kill_reason is None and self.report.exit is None:
            self.kill_reason = reason
        self._guest.kill()

    async def execute(self, job: Iterable[bytes]) -> None:
        """Run the job until the guest is dead. Cancelling the call kills the guest as well.

        Raises SandboxUnavailable if it can't be set up or ended in time.
        """
        try:
            close_job = self.receiver is None
            self._channel.send(encode_run_input(job, self._request.stdin, close_job=close_job))
            await self._wait_for_start()
            await self._wait_for_end()
        finally:
            _, cancelled = await run_deferring_cancellation(self.close())
        if cancelled:
            raise asyncio.CancelledError

    async def close(self) -> None:
        """Kill the guest, read what it sent, release the channel."""
        try:
            await self._guest.end()
            await self._wait_until(lambda: False, _DRAIN_S)
            if self.report.exit is None:
                self._update_cpu()
        finally:
            self._channel.close()
            if self.receiver is not None:
                await self.receiver.finish(
                    complete=self.report.archive_complete and not self.malformed
                )
            self.finished.set()

    async def _wait_for_start(self) -> None:
        started = await self._wait_until(lambda: self.report.started, self._setup_timeout_s)
        if not started:
            raise SandboxUnavailable(
                f"a sandbox was not set up within {self._setup_timeout_s:.0f} s"
            )

    async def _wait_for_end(self) -> None:
        build, limits = self._request.build, self._request.limits
        if build is not None:
            self.build_wall_s = await self._limit_time(
                lambda: self.report.build is not None, build.wall_s, build.cpu_s
            )
        self.wall_s = await self._limit_time(
            lambda: self.report.exit is not None, limits.wall_s, limits.cpu_s
        )
        if not await self._wait_until(lambda: False, self._collect_timeout_s):
            self.collection_timed_out = True

    async def _limit_time(self, ended: Callable[[], bool], wall_s: float, cpu_s: float) -> float:
        """Wait until it has ended or exceeds a limit, and kill the run then; seconds waited."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        deadline = start + wall_s
        while not await self._wait_until(ended, self._next_check_s(deadline - loop.time())):
            if reason := self._exceeded_time_limit(deadline - loop.time(), cpu_s):
                self._end_program(reason)
                break
        return loop.time() - start

    def _end_program(self, reason: EndReason) -> None:
        """Kill the run, or the program alone if its workspace is to be saved."""
        if self.receiver is None or not self.report.started:
            self.kill(reason)
        elif self.kill_reason is None and self.report.exit is None:
            self.kill_reason = reason
            self._channel.send([END_OF_JOB])

    def _next_check_s(self, remaining_s: float) -> float:
        return max(0.0, min(_TICK_S, remaining_s) if self._enforce_cpu_limit else remaining_s)

    def _exceeded_time_limit(self, remaining_s: float, cpu_s: float) -> EndReason | None:
        if remaining_s <= 0:
            return EndReason.WALL_TIME
        self._update_cpu()
        return EndReason.CPU_TIME if self.cpu_s >= cpu_s else None

    def _update_cpu(self) -> None:
        if self._cpu_at_start_us is not None:
            self.cpu_s = max(0, self._guest.cpu_us() - self._cpu_at_start_us) / 1e6

    async def _wait_until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether the condition became true, or the guest sent its last byte, within that time."""
        try:
            async with asyncio.timeout(seconds):
                while not (condition() or self._decoder.ended or self._channel.ended):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _feed(self, data: bytes) -> None:
        self._decoder.feed(data)
        if self.malformed:
            self.kill(EndReason.SIGNALLED)
        self._changed.set()

    def _handle_frame(self, kind: bytes, payload: bytes) -> None:
        if kind in _STREAMS:
            self._add_output(_STREAMS[kind], payload)
            return
        previous_exit, previous_build = self.report.exit, self.report.build
        self.report.feed(payload)
        if self.report.started and self._cpu_at_start_us is None:
            self._cpu_at_start_us = self._guest.cpu_us()
        if self.report.build is not previous_build and self._request.build is not None:
            self._update_cpu()
            self.build_cpu_s, self.cpu_s = self.cpu_s, 0.0
            self._cpu_at_start_us = self._guest.cpu_us()
        if self.report.exit is not previous_exit:
            self._update_cpu()
        if self.report.started:
            self._report_start()

    def _add_output(self, stream: OutputStream, data: bytes) -> None:
        (self.stdout if stream is OutputStream.STDOUT else self.stderr).add(data)
        if self._watcher is not None:
            self._report_start()  # output may arrive before the report's frame
            self._watcher.output(stream, data)
        if self.stdout.total + self.stderr.total > self._request.limits.output_killed_bytes:
            self._end_program(EndReason.OUTPUT)

    def _report_start(self) -> None:
        if self._watcher is not None and not self._start_reported:
            self._start_reported = True
            self._watcher.started()
