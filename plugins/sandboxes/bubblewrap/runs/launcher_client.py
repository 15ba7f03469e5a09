"""The service's end of the socket to the launcher, and the launcher's process."""

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

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.bubblewrap.launcher import wire
from plugins.sandboxes.bubblewrap.launcher.limits_codec import Bounds
from plugins.sandboxes.bubblewrap.runs.launcher_handle import Launched

_START_S = 30.0
_END_S = 10.0
_MOST_FDS = 4
# What the launcher finds our code by; everything else of an environment stays with us.
_ENVIRONMENT = ("PYTHONPATH", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG")
_LOST = "the process that runs the sandboxes has ended, and this run with it: try again"

log = logging.getLogger(__name__)


class Order(Struct, frozen=True):
    """A sandbox to be started; `words` are those of bwrap."""

    slot: int
    uid: int | None
    bounds: Bounds
    words: list[str]


class Link:
    """A launcher that was started. `lost` is set when it and all its sandboxes are dead."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """Raises OSError."""
        self.lost = asyncio.Event()
        self.sandboxes: dict[bytes, Launched] = {}
        self._broken = self._closing = False
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[list[bytes]] = self._loop.create_future()
        self._adapting: dict[bytes, asyncio.Future[str]] = {}
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        self._inner: int | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._socket.setblocking(False)
            try:
                self._process = _start(argv, env, theirs)
            except OSError:
                self._socket.close()
                raise
        self._loop.add_reader(self._socket, self._receive)
        self._ending: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._broken

    async def begin(self, wanted: Sequence[bytes]) -> list[bytes]:
        """Have everything laid out; what the launcher answers. Raises SandboxUnavailable."""
        self._send(*wanted)
        try:
            async with asyncio.timeout(_START_S):
                return await asyncio.shield(self._ready)
        except TimeoutError:
            raise SandboxUnavailable(
                f"the process that runs the sandboxes was not ready within {_START_S:.0f} s"
            ) from None

    def spawn(self, sandbox: Launched, order: Order, fds: list[int]) -> None:
        """Ask for a sandbox, which is told how it goes. Takes over its descriptors."""
        self.sandboxes[sandbox.name] = sandbox
        if self._broken:
            _close(fds)
            self._forget(sandbox)
            return
        user = b"" if order.uid is None else wire.number(order.uid)
        words = [wire.number(order.slot), user, order.bounds.packed()]
        words += map(os.fsencode, order.words)
        self._send(b"spawn", sandbox.name, *words, fds=fds)

    def kill(self, sandbox: Launched, *, hard: bool) -> None:
        if sandbox.name in self.sandboxes:
            self._send(b"kill", sandbox.name, b"hard" if hard else b"")

    async def adapt(self, sandbox: Launched, bounds: Bounds) -> str:
        """Why it could not be done; "" if it was. Raises TimeoutError."""
        answer = self._adapting[sandbox.name] = self._loop.create_future()
        self._send(b"adapt", sandbox.name, bounds.packed())
        try:
            async with asyncio.timeout(_END_S):
                return await answer
        finally:
            self._adapting.pop(sandbox.name, None)

    def break_off(self) -> None:
        """Kill the launcher, and with it every sandbox."""
        if self._inner is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._inner, signal.SIGKILL)
        else:
            self._process.kill()
        self._lose()

    async def close(self) -> None:
        """Let it end, and see that it has."""
        self._closing = True
        self._lose()
        await self.lost.wait()

    def _send(self, *words: bytes, fds: list[int] | None = None) -> None:
        self._unsent.append((wire.pack(*words), fds or []))
        self._flush()

    def _flush(self) -> None:
        while self._unsent and not self._broken:
            message, fds = self._unsent[0]
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                self._socket.sendmsg([message], extra)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._lose()
                return
            self._unsent.popleft()
            _close(fds)
        if not self._broken:
            self._loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(
                self._socket, wire.MOST_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError:
            self._lose()
            return
        if not data:
            self._lose()
            return
        try:
            what, *words = wire.unpack(data)
            self._take(what, words, fds)
        except (ValueError, IndexError):
            log.error("the process that runs the sandboxes sent what makes no sense: it is ended")
            self.break_off()

    def _take(self, what: bytes, words: list[bytes], fds: list[int]) -> None:
        if what == b"ready":
            (self._inner,) = fds
            self._settle(words)
        elif what == b"unable":
            problem, remedy = (word.decode(errors="replace") for word in words)
            self._settle(unavailable(problem, remedy))
        elif what == b"adapted":
            answer = self._adapting.get(words[0])
            if answer and not answer.done():
                answer.set_result(words[1].decode(errors="replace"))
        elif what == b"met":
            self._known(words[0]).meet()
        elif what == b"failed":
            sandbox = self._known(words[0])
            del self.sandboxes[sandbox.name]
            sandbox.fail(words[1].decode(errors="replace"))
        elif what == b"over":
            sandbox = self._known(words[0])
            del self.sandboxes[sandbox.name]
            sandbox.finish(*map(int, words[1:]))
        else:
            raise ValueError

    def _known(self, name: bytes) -> Launched:
        if (sandbox := self.sandboxes.get(name)) is None:
            raise ValueError
        return sandbox

    def _settle(self, answer: list[bytes] | SandboxUnavailable) -> None:
        if self._ready.done():
            raise ValueError
        if isinstance(answer, SandboxUnavailable):
            self._ready.set_exception(answer)
            self._ready.exception()  # nobody may be waiting any more
        else:
            self._ready.set_result(answer)

    def _lose(self) -> None:
        """From here on nothing is heard; what is still alive is about to end."""
        if self._broken:
            return
        self._broken = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, fds in self._unsent:
            _close(fds)
        self._unsent.clear()
        self._ending = self._loop.create_task(self._see_end())

    async def _see_end(self) -> None:
        status = await asyncio.to_thread(self._reap)
        if self._inner is not None:
            await self._end_of(self._inner)
            os.close(self._inner)
        if not self._closing:
            lost = len(self.sandboxes)
            log.warning("the process that runs the sandboxes ended (%s), %s lost", status, lost)
        if not self._ready.done():
            self._settle(
                unavailable(
                    f"the process that runs the sandboxes ended at its start ({status})",
                    "see the log of the service",
                )
            )
        for answer in self._adapting.values():
            if not answer.done():
                answer.set_result(_LOST)
        for sandbox in list(self.sandboxes.values()):
            self._forget(sandbox)
        self.lost.set()

    def _forget(self, sandbox: Launched) -> None:
        del self.sandboxes[sandbox.name]
        sandbox.lose(_LOST)

    def _reap(self) -> int:
        """Wait for the outer process, which ends when everything else has; its exit status."""
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    async def _end_of(self, pidfd: int) -> None:
        """The kernel kills what is in the inner one's namespace before this can be read."""
        ended = asyncio.Event()
        self._loop.add_reader(pidfd, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), _END_S)
        except TimeoutError:
            log.error("the process that runs the sandboxes was killed and does not end")
        finally:
            self._loop.remove_reader(pidfd)


def _start(
    argv: Sequence[str], env: Mapping[str, str], theirs: socket.socket
) -> "subprocess.Popen[bytes]":
    # From the event loop's own thread: the executable dies with the thread that started it.
    wanted = {name: env[name] for name in _ENVIRONMENT if name in env}
    wanted |= {name: value for name, value in env.items() if name.startswith("_PYI_")}
    return subprocess.Popen(
        list(argv),
        stdin=theirs.fileno(),
        stdout=subprocess.DEVNULL,
        env=wanted,
        cwd="/",
        start_new_session=True,
    )


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
    fds.clear()
