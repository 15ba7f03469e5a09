"""The processes of one run on the host: how they are killed and reaped."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.streams import CappedOutput, PipeReader
from plugins.sandboxes.gvisor.launcher import OUT_OF_MEMORY
from plugins.sandboxes.gvisor.spawner import LauncherHandle

_KILL_S = 10.0
_DEATH_S = 10.0
_LOG_BYTES = 8192
_MAX_LOG_BYTES = 4 << 20


class ProcessTree:
    """The launcher, which ends once everything that it started is dead; a guest.run.Guest.

    `on_oom` is called as soon as memory runs out. After `end`, `out_of_memory` says whether that
    ended the guest, `max_memory_bytes` is its peak memory (0 if it is not accounted), and `log`
    holds the output of launcher and runsc.
    """

    def __init__(self, launcher: LauncherHandle, on_oom: Callable[[], None]) -> None:
        self.out_of_memory = False
        self.max_memory_bytes = 0
        self.log = CappedOutput(_LOG_BYTES)
        self._reaped_us = 0
        self._process = launcher.process
        self._cgroup = launcher.cgroup
        self._on_oom = on_oom
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._reader = PipeReader(launcher.log, self._add_log, lambda: None)
        self._pidfd = launcher.pidfd
        self._loop.add_reader(self._pidfd, self._reap)
        self._oom_eventfd = launcher.cgroup.oom_eventfd if launcher.cgroup else None
        if self._oom_eventfd is not None:
            self._loop.add_reader(self._oom_eventfd, self._handle_oom)

    def kill(self) -> None:
        """Signal the launcher, which kills everything and then ends."""
        if self._cgroup is not None and not self._ended.is_set():
            self.max_memory_bytes = max(self.max_memory_bytes, self._cgroup.memory_bytes())
        self._signal(signal.SIGTERM)

    def cpu_us(self) -> int:
        """Without a control group: the CPU time of reaped processes, once all have ended."""
        accounted = self._cgroup.cpu_us() if self._cgroup is not None else 0
        return accounted or self._reaped_us

    async def end(self) -> None:
        """Raises SandboxUnavailable if the kernel does not end it."""
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _KILL_S)
        self._signal(signal.SIGKILL)
        if self._cgroup is not None:
            self._cgroup.kill()
        try:
            await asyncio.wait_for(self._ended.wait(), _DEATH_S)
        except TimeoutError:
            raise SandboxUnavailable("a sandbox that was killed does not end") from None
        finally:
            self._stop_watching_oom()
            self._reader.close()
            if self._cgroup is not None:
                self.out_of_memory |= self._cgroup.oom_killed()
                self.max_memory_bytes = max(self.max_memory_bytes, self._cgroup.memory_bytes())

    def _add_log(self, data: bytes) -> None:
        self.log.add(data)
        if self.log.total > _MAX_LOG_BYTES:  # only a gVisor that was taken over writes so much
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        if not self._ended.is_set():
            signal.pidfd_send_signal(self._pidfd, number)

    def _handle_oom(self) -> None:
        self._stop_watching_oom()
        self._on_oom()

    def _stop_watching_oom(self) -> None:
        if self._oom_eventfd is not None:
            self._loop.remove_reader(self._oom_eventfd)
            self._oom_eventfd = None

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.out_of_memory |= self._process.returncode == OUT_OF_MEMORY
        self._reaped_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
        self._ended.set()
