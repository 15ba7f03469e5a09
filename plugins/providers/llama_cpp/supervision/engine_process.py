"""An engine process, from spawning to reaping, and the socket to it."""

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
from plugins.providers.llama_cpp.host.exit_diagnosis import diagnose_exit

_ENGINE_MODULE = "plugins.providers.llama_cpp.engine.main"
_STDERR_TAIL_BYTES = 16 * 1024
_TERM_TIMEOUT_S = 2.0
_EXIT_TIMEOUT_S = 5.0
_STDERR_TIMEOUT_S = 2.0

T = TypeVar("T")


class EngineProcessError(Exception):
    """The process could not be started, or ended; the text says why."""


class EngineProcess:
    """A running engine process. Its owner must `kill` it, which also reaps it."""

    def __init__(self, process: asyncio.subprocess.Process, stderr: asyncio.StreamReader) -> None:
        self._process = process
        self._stderr_tail = bytearray()
        self._stderr_task = asyncio.create_task(self._read_stderr(stderr))

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """End the process and its children, and wait until it is gone."""
        for number, timeout in (
            (signal.SIGTERM, _TERM_TIMEOUT_S),
            (signal.SIGKILL, _EXIT_TIMEOUT_S),
        ):
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), timeout)
        await self._wait_for_stderr()

    async def exit_reason(self) -> str:
        """Wait a few seconds for the process to end; returns how it did."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _EXIT_TIMEOUT_S)
        await self._wait_for_stderr()
        text = self._stderr_tail.decode("utf-8", "replace")
        return diagnose_exit(self._process.returncode, text)

    async def run_while_alive(self, awaitable: Awaitable[T]) -> T:
        """Its result. Raises EngineProcessError if the process ends first."""
        task = asyncio.ensure_future(awaitable)
        exit_task = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({task, exit_task}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise EngineProcessError(await self.exit_reason())
            return task.result()
        finally:
            task.cancel()
            exit_task.cancel()

    async def _wait_for_stderr(self) -> None:
        """Wait for the rest of stderr, which a child of the process may keep open."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._stderr_task), _STDERR_TIMEOUT_S)

    async def _read_stderr(self, stderr: asyncio.StreamReader) -> None:
        """Keep the tail of stderr."""
        while data := await stderr.read(4096):
            self._stderr_tail += data
            del self._stderr_tail[:-_STDERR_TAIL_BYTES]


async def spawn_engine(context: PluginContext) -> tuple[EngineProcess, socket.socket]:
    """Start an engine; returns it and the connection that it opened.

    Raises EngineProcessError. The socket's file lies in the private runtime directory
    until the engine has connected.
    """
    path = context.runtime_dir / f"llama-{secrets.token_hex(4)}.sock"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _ListeningSocket(path) as listener:
        process = await _start_process(context, path)
        try:
            loop = asyncio.get_running_loop()
            connection, _ = await process.run_while_alive(loop.sock_accept(listener))
        except BaseException:
            await asyncio.shield(process.kill())
            raise
    return process, connection


class _ListeningSocket:
    """A listening Unix socket with mode 0600; its file is removed at the end."""

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
            reason = error.strerror or error
            raise EngineProcessError(f"can't open a socket for the engine: {reason}") from error
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)


async def _start_process(context: PluginContext, path: Path) -> EngineProcess:
    argv = [*context.child_argv(_ENGINE_MODULE), str(path)]
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
        program = Path(sys.executable).name
        reason = error.strerror or error
        raise EngineProcessError(f"{program} can't be started: {reason}") from error
    # stderr=PIPE: never None.
    return EngineProcess(process, process.stderr or asyncio.StreamReader())
