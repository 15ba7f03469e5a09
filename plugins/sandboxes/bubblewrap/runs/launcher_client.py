"""The launcher's process and the service's end of the socket to it (messages: launcher/main.py)."""

import array
import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap.launcher import wire
from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits, SpawnRequest
from plugins.sandboxes.bubblewrap.runs.sandbox_handle import SandboxHandle

_START_S = 30.0
_END_S = 10.0
_MAX_FDS = 4
# The variables by which the launcher finds the product's code; it gets no others.
_ENVIRONMENT = ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG")
_LOST_REASON = "the sandbox launcher ended, and this run with it; retry"

log = logging.getLogger(__name__)


class LauncherClient:
    """A started launcher. `ended` is set when it and all its sandboxes have ended."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises OSError."""
        self.ended = asyncio.Event()
        self.sandboxes: dict[bytes, SandboxHandle] = {}
        self._disconnected = self._closing = False
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[list[bytes]] = self._loop.create_future()
        self._limit_replies: dict[bytes, asyncio.Future[str]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._inner_pidfd: int | None = None
        self._socket, launcher_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with launcher_end:
            self._socket.setblocking(False)
            try:
                self._process = _start_launcher(argv, env, launcher_end)
            except OSError:
                self._socket.close()
                raise
        self._loop.add_reader(self._socket, self._receive)
        self._end_task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._disconnected

    async def build_layout(self, request: Sequence[bytes]) -> list[bytes]:
        """Send the encoded LayoutRequest; return the words of "ready".

        Raises SandboxUnavailable.
        """
        self._send(*request)
        try:
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise SandboxUnavailable(
                f"the sandbox launcher was not ready within {_START_S:.0f} s"
            ) from None

    def spawn(self, sandbox: SandboxHandle, request: SpawnRequest, fds: list[int]) -> None:
        """Request a sandbox; the handle is updated from now on. Closes the descriptors."""
        self.sandboxes[sandbox.name] = sandbox
        if self._disconnected:
            _close_all(fds)
            self._mark_lost(sandbox)
            return
        self._send(b"spawn", sandbox.name, *request.encode(), fds=fds)

    def kill(self, sandbox: SandboxHandle, *, hard: bool) -> None:
        if sandbox.name in self.sandboxes:
            self._send(b"kill", sandbox.name, b"hard" if hard else b"")

    async def set_limits(self, sandbox: SandboxHandle, limits: KernelLimits) -> str:
        """Return why the limits were not changed; "" if they were. Raises TimeoutError."""
        reply = self._limit_replies[sandbox.name] = self._loop.create_future()
        self._send(b"adapt", sandbox.name, limits.encode())
        try:
            async with asyncio.timeout(_END_S):
                return await reply
        finally:
            self._limit_replies.pop(sandbox.name, None)

    def kill_launcher(self) -> None:
        """Kill the launcher, and with it every sandbox."""
        if self._inner_pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner_pidfd, signal.SIGKILL)
        else:
            self._process.kill()
        self._disconnect()

    async def close(self) -> None:
        """Have the launcher end, and wait for that."""
        self._closing = True
        self._disconnect()
        await self.ended.wait()

    def _send(self, *words: bytes, fds: list[int] | None = None) -> None:
        self._unsent.append((wire.pack(*words), fds or []))
        self._flush()

    def _flush(self) -> None:
        while self._unsent and not self._disconnected:
            message, fds = self._unsent[0]
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([message], extra)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._disconnect()
                return
            self._unsent.popleft()
            _close_all(fds)
        if not self._disconnected:
            self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(
                self._socket, wire.MAX_MESSAGE_BYTES, _MAX_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self._disconnect()
            return
        if not data:
            self._disconnect()
            return
        try:
            kind, *words = wire.unpack(data)
            self._handle_message(kind, words, fds)
        except (ValueError, IndexError):
            log.error("the sandbox launcher sent a malformed message and is killed")
            self.kill_launcher()

    def _handle_message(self, kind: bytes, words: list[bytes], fds: list[int]) -> None:
        if kind == b"ready":
            (self._inner_pidfd,) = fds
            self._resolve_ready(words)
        elif kind == b"unable":
            problem, remedy = (word.decode(errors="replace") for word in words)
            self._resolve_ready(SandboxUnavailable.with_remedy(problem, remedy))
        elif kind == b"adapted":
            reply = self._limit_replies.get(words[0])
            if reply and not reply.done():
                reply.set_result(words[1].decode(errors="replace"))
        elif kind == b"met":
            self._find_sandbox(words[0]).set_ready()
        elif kind == b"failed":
            sandbox = self._find_sandbox(words[0])
            del self.sandboxes[sandbox.name]
            sandbox.set_failed(words[1].decode(errors="replace"))
        elif kind == b"over":
            sandbox = self._find_sandbox(words[0])
            del self.sandboxes[sandbox.name]
            sandbox.set_exited(*map(int, words[1:]))
        else:
            raise ValueError

    def _find_sandbox(self, name: bytes) -> SandboxHandle:
        if (sandbox := self.sandboxes.get(name)) is None:
            raise ValueError
        return sandbox

    def _resolve_ready(self, result: list[bytes] | SandboxUnavailable) -> None:
        if self._ready.done():
            raise ValueError
        if isinstance(result, SandboxUnavailable):
            self._ready.set_exception(result)
            self._ready.exception()  # retrieved: nobody may be waiting any more
        else:
            self._ready.set_result(result)

    def _disconnect(self) -> None:
        """Close the socket, at whose end the launcher ends too, and wait for that in a task."""
        if self._disconnected:
            return
        self._disconnected = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, fds in self._unsent:
            _close_all(fds)
        self._unsent.clear()
        self._end_task = self._loop.create_task(self._wait_for_end())

    async def _wait_for_end(self) -> None:
        status = await asyncio.to_thread(self._reap_outer)
        if self._inner_pidfd is not None:
            await self._wait_for_pidfd(self._inner_pidfd)
            os.close(self._inner_pidfd)
        if not self._closing:
            count = len(self.sandboxes)
            log.warning("the sandbox launcher ended (%s) with %s sandboxes", status, count)
        if not self._ready.done():
            self._resolve_ready(
                SandboxUnavailable.with_remedy(
                    f"the sandbox launcher ended while it started ({status})",
                    "see the log of the service",
                )
            )
        for reply in self._limit_replies.values():
            if not reply.done():
                reply.set_result(_LOST_REASON)
        for sandbox in list(self.sandboxes.values()):
            self._mark_lost(sandbox)
        self.ended.set()

    def _mark_lost(self, sandbox: SandboxHandle) -> None:
        del self.sandboxes[sandbox.name]
        sandbox.set_lost(_LOST_REASON)

    def _reap_outer(self) -> int:
        """Wait for the launcher's outer process, which ends last, and return its exit status."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _wait_for_pidfd(self, pidfd: int) -> None:
        """Wait for the inner process; the kernel ends its process namespace before it."""
        ended = asyncio.Event()
        self._loop.add_reader(pidfd, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), _END_S)
        except TimeoutError:
            log.error("the sandbox launcher did not end although it was killed")
        finally:
            self._loop.remove_reader(pidfd)


def _start_launcher(
    argv: Sequence[str], env: Mapping[str, str], launcher_end: socket.socket
) -> "subprocess.Popen[bytes]":
    # In the event loop's own thread: the frozen executable ends with the thread that started it.
    kept = {name: env[name] for name in _ENVIRONMENT if name in env}
    kept |= {name: value for name, value in env.items() if name.startswith("_PYI_")}
    return subprocess.Popen(
        list(argv),
        stdin=launcher_end.fileno(),
        stdout=subprocess.DEVNULL,
        env=kept,
        cwd="/",
        start_new_session=True,
    )


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
