"""One QEMU process and the guest in it: its port, its log, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from appliance.errors import SandboxUnavailable
from plugins._shared.cgroups.base import Group
from plugins._shared.stage.streams import CappedOutput, PipeReader
from plugins.sandboxes.microvm.guest_init import READY

_DEATH_S = 10.0
_DRAIN_S = 5.0
_LOG_BYTES = 16384
_MAX_LOG_BYTES = 4 << 20


class GuestMachine:
    """A guest.run.Guest. Created on the event loop for a process that was just started.

    The machine owns `port`, the server's end of the guest's serial port (until `detach_port`),
    `log`, the read end of the output of QEMU and the guest's console, and `cgroup`, which is
    passed to `release_cgroup` at the end. `snapshot` is the snapshot that it was resumed from, if
    any. `out_of_memory` says after `end` whether the host's kernel killed it for lack of memory.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        port: socket.socket,
        log: int,
        cgroup: Group | None,
        release_cgroup: Callable[[Group], None],
    ) -> None:
        self.log = CappedOutput(_LOG_BYTES)
        self.snapshot: object = None
        self.out_of_memory = False
        self._cgroup = cgroup
        self._release_cgroup = release_cgroup
        self._final_cpu_us = 0
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._port: socket.socket | None = port
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._log_closed = asyncio.Event()
        self._reader = PipeReader(log, self._add_log, self._log_closed.set)
        self._loop.add_reader(self._pidfd, self._reap)
        port.setblocking(False)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def last_log_line(self) -> str:
        """The most informative line of the end of the log."""
        text = self.log.value().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return _most_informative(lines)[:300]

    async def wait_ready(self, seconds: float) -> None:
        """Return when the guest waits for its parameters. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                data = await self._loop.sock_recv(self._own_port(), len(READY))
        except TimeoutError:
            raise SandboxUnavailable(
                f"a machine did not start within {seconds:.0f} s ({self.last_log_line})"
            ) from None
        except OSError:
            data = b""
        if data != READY:
            await self.end()
            raise SandboxUnavailable(f"a machine ended during its start ({self.last_log_line})")

    async def send_parameters(self, parameters: bytes) -> None:
        """Send the parameters of its run; see guest_init.py."""
        with contextlib.suppress(OSError):  # it has ended, which the run notices
            await self._loop.sock_sendall(self._own_port(), parameters)

    def detach_port(self) -> tuple[int, int]:
        """Two descriptors of the port, to read from and to write to, which the caller owns."""
        port, self._port = self._own_port(), None
        fd = port.detach()
        return fd, os.dup(fd)

    def cpu_us(self) -> int:
        return self._cgroup.cpu_us() if self._cgroup is not None else self._final_cpu_us

    def kill(self) -> None:
        """Kill QEMU and its children. It is stopped first, so that it creates no new child."""
        if self.ended:
            return
        self._signal(signal.SIGSTOP)
        for child in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """Kill it; return when it is dead and reaped and its log is read.

        Raises SandboxUnavailable if the kernel does not end it.
        """
        self.kill()
        try:
            await asyncio.wait_for(self._ended.wait(), _DEATH_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._log_closed.wait(), _DRAIN_S)
        except TimeoutError:
            raise SandboxUnavailable("a machine that was killed does not end") from None
        finally:
            self._reader.close()
            if self._port is not None:
                self._port.close()
                self._port = None
            self._leave_cgroup()

    def _leave_cgroup(self) -> None:
        cgroup = self._cgroup
        if cgroup is not None:
            cgroup.kill()
            self.out_of_memory = cgroup.oom_killed()
            self._final_cpu_us = cgroup.cpu_us()
            self._cgroup = None
            self._release_cgroup(cgroup)

    def _add_log(self, data: bytes) -> None:
        self.log.add(data)
        if self.log.total > _MAX_LOG_BYTES:  # only a guest kernel or QEMU that was taken over
            self.kill()

    def _own_port(self) -> socket.socket:
        if self._port is None:
            raise SandboxUnavailable("the machine's port was detached")
        return self._port

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _reap(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._ended.set()
        os.close(self._pidfd)
        self._process.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _most_informative(lines: list[str]) -> str:
    """QEMU's own message, or the kernel's panic; else the last line."""
    for mark in ("qemu-system", "bwrap:", "Error: ", "error while", "panic"):
        for line in lines:
            if mark in line:
                return line
    return lines[-1] if lines else "without a message"
