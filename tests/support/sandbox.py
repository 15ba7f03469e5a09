"""Real sandboxes for tests: as the user that runs the tests, and as an ordinary user."""

import asyncio
import contextlib
import itertools
import subprocess
import sys
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from appliance import errors
from appliance.domain.execution import (
    BackendStatus,
    Limits,
    OutputStream,
    RunRequest,
    RunResult,
    SandboxFile,
)
from plugins._shared import bwrap_binary
from tests.support.sandbox_service import encode_frame, read_frame

ROOT = Path(__file__).resolve().parents[2]
ORDINARY_USER = 64_999
GENEROUS = Limits(wall_s=60.0, cpu_s=30.0)
"""For tests of something else than limits, on a machine that may be busy."""


class Backend(Protocol):
    """The methods of a backend that tests use."""

    def run(self, request: RunRequest) -> Awaitable[RunResult]: ...

    def probe(self) -> Awaitable[BackendStatus]: ...

    def close(self) -> Awaitable[None]: ...


class RecordingWatcher:
    """Implements appliance.spi.sandbox.RunWatcher: "started", then (stream, data) each."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def started(self) -> None:
        self.events.append("started")

    def output(self, stream: OutputStream, data: bytes) -> None:
        self.events.append((stream, data))

    def joined(self, stream: OutputStream) -> bytes:
        """All output of one stream."""
        return b"".join(each[1] for each in self.events if each[0] is stream)


def find_host_processes(mark: str) -> list[str]:
    """Command lines of the host's processes that contain this text."""
    lines: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in lines if mark in line]


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def find_orphaned_sandboxes() -> set[str]:
    """Process ids of sandboxes whose service has ended."""
    pids: set[str] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
                if parent == b"1" and b"sandbox/init.pyc" in (folder / "cmdline").read_bytes():
                    pids.add(folder.name)
    return pids


async def run_python(backend: Backend, code: str, **more: Any) -> RunResult:
    more.setdefault("limits", GENEROUS)
    return await backend.run(RunRequest(("python", "-c", code), **more))


def files(**contents: str) -> tuple[SandboxFile, ...]:
    return tuple(
        SandboxFile(name.replace("__", "."), text.encode()) for name, text in contents.items()
    )


class RemoteBackend:
    """A backend in another user's process; same behavior, same errors."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._read_task = asyncio.create_task(self._read_replies())

    async def run(self, request: RunRequest) -> RunResult:
        return msgspec.convert(await self._request("run", request), RunResult)

    async def probe(self) -> BackendStatus:
        return msgspec.convert(await self._request("probe", None), BackendStatus)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await asyncio.wait_for(self._process.wait(), 30) == 0
        await self._read_task

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """As `kill -9` would."""
        self._process.kill()
        await self._process.wait()
        await self._read_task
        for future in self._replies.values():
            future.cancel()

    async def _request(self, kind: str, payload: Any) -> Any:
        number = next(self._numbers)
        future = self._replies[number] = asyncio.get_running_loop().create_future()
        self._send([number, kind, payload])
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._send([next(self._numbers), "cancel", number])
            # It may have ended before the message arrived.
            with contextlib.suppress(asyncio.CancelledError):
                await future
            raise

    def _send(self, request: list[Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(encode_frame(request))

    async def _read_replies(self) -> None:
        assert self._process.stdout is not None
        while (reply := await read_frame(self._process.stdout)) is not None:
            number, kind, payload = reply
            if kind == "error":
                self._replies.pop(number).set_exception(_make_error(*payload))
            else:
                self._replies.pop(number).set_result(payload)


def _make_error(name: str, message: str) -> BaseException:
    kind = asyncio.CancelledError if name == "CancelledError" else getattr(errors, name)
    return kind(message)


def without_user_namespaces() -> tuple[str, ...]:
    """A command prefix for a program that can't make user namespaces."""
    options = ("--unshare-user", "--disable-userns", "--dev-bind", "/", "/")
    return (str(bwrap_binary.locate_bwrap().program), *options, "--")


async def start_as_ordinary_user(
    home: Path, launcher: str = "", groups: tuple[int, ...] = ()
) -> RemoteBackend:
    """`launcher`: Python code that runs the launcher, instead of the product's own command.

    `groups` are further groups of the user.
    """
    where = (home / "python", home / "run", home / "code", ORDINARY_USER)
    return await start_service(*where, launcher=launcher, groups=groups)


async def start_service(
    python: Path,
    runtime_dir: Path,
    code: Path,
    user: int | None,
    inside: tuple[str, ...] = (),
    *,
    launcher: str = "",
    groups: tuple[int, ...] = (),
) -> RemoteBackend:
    """A backend in a process of `user` (None: our own), started by the command `inside`."""
    process = await asyncio.create_subprocess_exec(
        *inside,
        sys.executable if user is None else str(python / "bin" / "python3"),
        "-m",
        "tests.support.sandbox_service",
        str(python),
        str(runtime_dir),
        *([launcher] if launcher else []),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        limit=1 << 26,
        cwd=code,
        env={"PYTHONPATH": str(code), "PATH": "/usr/bin:/bin"},
        user=user,
        group=user,
        extra_groups=None if user is None else groups,
    )
    return RemoteBackend(process)
