"""The processes of one run on the host: killing them, seeing that they are dead."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.output import CappedOutput
from plugins._shared.stage.pipes import PipeReader
from plugins.sandboxes.gvisor.launcher import STARVED
from plugins.sandboxes.gvisor.spawner import Started

_KILL_S = 10.0
_DEATH_S = 10.0
_LOG_BYTES = 8192
_MOST_SAID = 4 << 20


class Tree:
    """The launcher, which ends when all that it started is dead; implements guest.run.Guest.

    `starved` is true after `end` if the guest was ended for want of memory, `log` then holds
    what launcher and runsc had to say. `at_alarm` is called at once when memory runs out.
    `most_bytes` is after `end` the most memory that it had, where the host counts that.
    """

    def __init__(self, started: Started, at_alarm: Callable[[], None]) -> None:
        self.starved = False
        self.most_bytes = 0
        self.log = CappedOutput(_LOG_BYTES)
        self._reaped_us = 0
        self._process = started.process
        self._group = started.group
        self._at_alarm = at_alarm
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reader = PipeReader(started.log, self._hear, lambda: None)
        self._pidfd = started.pidfd
        self._loop.add_reader(self._pidfd, self._reap)
        self._alarm = started.group.alarm if started.group else None
        if self._alarm is not None:
            self._loop.add_reader(self._alarm, self._starve)

    def kill(self) -> None:
        """Tell the launcher, which ends everything and then itself."""
        if self._group is not None and not self._ended.is_set():
            self.most_bytes = max(self.most_bytes, self._group.memory_bytes())
        self._signal(signal.SIGTERM)

    def cpu_us(self) -> int:
        """Without an account what was reaped, once all has ended: not all of what was killed."""
        counted = self._group.cpu_us() if self._group is not None else 0
        return counted or self._reaped_us

    async def end(self) -> None:
        """Raises SandboxUnavailable if the kernel does not let go of it."""
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _KILL_S)
        self._signal(signal.SIGKILL)
        if self._group is not None:
            self._group.kill()
        try:
            await asyncio.wait_for(self._ended.wait(), _DEATH_S)
        except TimeoutError:
            raise SandboxUnavailable("a sandbox that was killed does not end") from None
        finally:
            self._silence()
            self._reader.close()
            if self._group is not None:
                self.starved |= self._group.starved()
                self.most_bytes = max(self.most_bytes, self._group.memory_bytes())

    def _hear(self, said: bytes) -> None:
        self.log.add(said)
        if self.log.total > _MOST_SAID:  # gVisor itself was taken over
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            signal.pidfd_send_signal(self._pidfd, number)

    def _starve(self) -> None:
        self._silence()
        self._at_alarm()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._loop.remove_reader(self._alarm)
            self._alarm = None

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.starved |= self._process.returncode == STARVED
        self._reaped_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
        self._ended.set()
