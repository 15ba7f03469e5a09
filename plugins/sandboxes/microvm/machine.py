"""One QEMU and the guest in it: started, met, killed, reaped."""

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
from plugins._shared.stage.output import CappedOutput
from plugins._shared.stage.pipes import PipeReader
from plugins.sandboxes.microvm.guest_init import READY

_DEATH_S = 10.0
_DRAIN_S = 5.0
_LOG_BYTES = 16384
_MOST_SAID = 4 << 20


class Machine:
    """Implements plugins._shared.guest.run.Guest. Made on the loop, with a process just started.

    `port` is our end of the guest's serial port and `log` the read end of what QEMU and
    the guest's console say; both belong to the machine from now on, until `give_port`. So
    does its control group, which is given up at the end. `origin` is the snapshot that it
    goes on from, if so; `starved` is true after `end` if the host's kernel ended it for want
    of memory.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        port: socket.socket,
        log: int,
        group: Group | None,
        give_up: Callable[[Group], None],
    ) -> None:
        self.log = CappedOutput(_LOG_BYTES)
        self.origin: object = None
        self.starved = False
        self._group = group
        self._give_up = give_up
        self._used_us = 0
        self._process = process
        self._pidfd = os.pidfd_open(process.pid)
        self._port: socket.socket | None = port
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._silent = asyncio.Event()
        self._reader = PipeReader(log, self._hear, self._silent.set)
        self._loop.add_reader(self._pidfd, self._reap)
        port.setblocking(False)

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    @property
    def last_words(self) -> str:
        """The end of what was said, on one line."""
        text = self.log.value().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return _telling(lines)[:300]

    async def ready(self, seconds: float) -> None:
        """Return when the guest waits for its orders. Raises SandboxUnavailable."""
        try:
            async with asyncio.timeout(seconds):
                word = await self._loop.sock_recv(self._own_port(), len(READY))
        except TimeoutError:
            raise SandboxUnavailable(
                f"a machine did not start within {seconds:.0f} s ({self.last_words})"
            ) from None
        except OSError:
            word = b""
        if word != READY:
            await self.end()
            raise SandboxUnavailable(f"a machine ended at its start ({self.last_words})")

    async def order(self, orders: bytes) -> None:
        """Give it its orders."""
        with contextlib.suppress(OSError):  # it died: the run sees that
            await self._loop.sock_sendall(self._own_port(), orders)

    def give_port(self) -> tuple[int, int]:
        """Two descriptors of the port, to read from and to write to; the caller's from now on."""
        port, self._port = self._own_port(), None
        fd = port.detach()
        return fd, os.dup(fd)

    def cpu_us(self) -> int:
        return self._group.cpu_us() if self._group is not None else self._used_us

    def kill(self) -> None:
        """Begin to end it. Stopped first, so that no child escapes that is just being made."""
        if self.ended:
            return
        self._signal(signal.SIGSTOP)
        for child in _children(self._process.pid):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        self._signal(signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and return when it is dead and reaped, and its last words are read.

        Raises SandboxUnavailable if the kernel does not let go of it.
        """
        self.kill()
        try:
            await asyncio.wait_for(self._ended.wait(), _DEATH_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._silent.wait(), _DRAIN_S)
        except TimeoutError:
            raise SandboxUnavailable("a machine that was killed does not end") from None
        finally:
            self._reader.close()
            if self._port is not None:
                self._port.close()
                self._port = None
            self._leave_group()

    def _leave_group(self) -> None:
        group = self._group
        if group is not None:
            group.kill()
            self.starved = group.starved()
            self._used_us = group.cpu_us()
            self._group = None
            self._give_up(group)

    def _hear(self, said: bytes) -> None:
        self.log.add(said)
        if self.log.total > _MOST_SAID:  # the guest's kernel was taken over, or QEMU
            self.kill()

    def _own_port(self) -> socket.socket:
        if self._port is None:
            raise SandboxUnavailable("the machine's port was given away")
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


def _telling(lines: list[str]) -> str:
    """The line that says most: QEMU's own, or where the kernel panics; else the last."""
    for word in ("qemu-system", "bwrap:", "Error: ", "error while", "panic"):
        for line in lines:
            if word in line:
                return line
    return lines[-1] if lines else "without a word"
