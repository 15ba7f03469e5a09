"""An engine's process, from spawning it to reaping it, and the socket to talk to it."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.host.exit_diagnosis import why_it_ended

_ENGINE = "plugins.providers.llama_cpp.engine.main"
_ERROR_TAIL_BYTES = 16 * 1024
_GRACE_S = 2.0
_LINGER_S = 5.0

T = TypeVar("T")


class ChildError(Exception):
    """The process could not be started, or ended; the text says why."""


class Child:
    """A running engine process. Whoever has it must `kill` it, which also reaps it."""

    def __init__(self, process: asyncio.subprocess.Process, errors: asyncio.StreamReader) -> None:
        self._process = process
        self._errors = bytearray()
        self._listener = asyncio.create_task(self._listen(errors))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """End the process and all it started, and wait until it is gone."""
        for number, patience in ((signal.SIGTERM, _GRACE_S), (signal.SIGKILL, _LINGER_S)):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), patience)
        await self._errors_read()

    async def why_it_ended(self) -> str:
        """Waits a moment for the end, then says how it came about."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _LINGER_S)
        await self._errors_read()
        text = self._errors.decode("utf-8", "replace")
        return why_it_ended(self._process.returncode, text)

    async def before_end(self, work: Awaitable[T]) -> T:
        """The work's result. Raises ChildError if the process ends first."""
        working = asyncio.ensure_future(work)
        ending = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({working, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ChildError(await self.why_it_ended())
            return working.result()
        finally:
            working.cancel()
            ending.cancel()

    async def _errors_read(self) -> None:
        """The rest of the error output; something that the child started may keep it open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._listener), _GRACE_S)

    async def _listen(self, errors: asyncio.StreamReader) -> None:
        """Keep the tail of the error output."""
        while data := await errors.read(4096):
            self._errors += data
            del self._errors[:-_ERROR_TAIL_BYTES]


async def spawn(context: PluginContext) -> tuple[Child, socket.socket]:
    """Start an engine; returns it and the connection that it opened.

    Raises ChildError. The socket's file lies in the private runtime directory, for
    as long as it takes the engine to connect.
    """
    path = context.runtime_dir / f"llama-{secrets.token_hex(4)}.sock"
    with _listening(path) as listener:
        child = await _start(context, path)
        try:
            loop = asyncio.get_running_loop()
            connection, _ = await child.before_end(loop.sock_accept(listener))
        except BaseException:
            await asyncio.shield(child.kill())
            raise
    return child, connection


def _listening(path: Path) -> "_Listener":
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _Listener(path)


class _Listener:
    """A listening Unix socket that only this user may connect to; its file goes at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> socket.socket:
        try:
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
            self._socket.listen(1)
            self._socket.setblocking(False)
        except OSError as error:
            self.__exit__()
            raise ChildError(f"no socket for the engine: {error.strerror or error}") from error
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


async def _start(context: PluginContext, path: Path) -> Child:
    argv = [*context.child_argv(_ENGINE), str(path)]
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=context.child_env(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        what = Path(sys.executable).name
        raise ChildError(f"{what} can't be started: {error.strerror or error}") from error
    # A pipe was asked for, so there is one.
    return Child(process, process.stderr or asyncio.StreamReader())
