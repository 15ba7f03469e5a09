"""Real sandboxes for tests: as the user who runs the tests, and as an ordinary one."""

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
from appliance.domain.execution import BackendStatus, Limits, RunRequest, RunResult, SandboxFile
from plugins._shared import bwrap_binary
from tests.support.sandbox_service import frame, read_frame

ROOT = Path(__file__).resolve().parents[2]
ORDINARY_USER = 64_999
GENEROUS = Limits(wall_s=60.0, cpu_s=30.0)
"""For tests that are about something else, on a machine as busy as it may be."""


class Backend(Protocol):
    """What the tests use of a backend."""

    def run(self, request: RunRequest) -> Awaitable[RunResult]: ...

    def probe(self) -> Awaitable[BackendStatus]: ...

    def close(self) -> Awaitable[None]: ...


def seen_on_the_host(mark: str) -> list[str]:
    """Command lines of processes with this word in it."""
    lines: list[str] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                lines.append((folder / "cmdline").read_bytes().decode(errors="replace"))
    return [line for line in lines if mark in line]


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def orphaned_sandboxes() -> set[str]:
    """Process ids of sandboxes whose service is gone."""
    found: set[str] = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parent = (folder / "stat").read_bytes().rpartition(b")")[2].split()[1]
                if parent == b"1" and b"sandbox/stage.pyc" in (folder / "cmdline").read_bytes():
                    found.add(folder.name)
    return found


async def run_python(backend: Backend, code: str, **more: Any) -> RunResult:
    more.setdefault("limits", GENEROUS)
    return await backend.run(RunRequest(("python", "-c", code), **more))


def files(**contents: str) -> tuple[SandboxFile, ...]:
    return tuple(
        SandboxFile(name.replace("__", "."), text.encode()) for name, text in contents.items()
    )


class OtherUsersBackend:
    """A backend in a process of the ordinary user; same behaviour, same errors."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    async def run(self, request: RunRequest) -> RunResult:
        return msgspec.convert(await self._ask("run", request), RunResult)

    async def probe(self) -> BackendStatus:
        return msgspec.convert(await self._ask("probe", None), BackendStatus)

    async def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert await asyncio.wait_for(self._process.wait(), 30) == 0
        await self._reading

    @property
    def pid(self) -> int:
        return self._process.pid

    async def kill(self) -> None:
        """As `kill -9` would."""
        self._process.kill()
        await self._process.wait()
        await self._reading
        for future in self._waiting.values():
            future.cancel()

    async def _ask(self, what: str, payload: Any) -> Any:
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        self._send([number, what, payload])
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._send([next(self._numbers), "cancel", number])
            # It may have ended before the word came.
            with contextlib.suppress(asyncio.CancelledError):
                await future
            raise

    def _send(self, question: list[Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(frame(question))

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while (answer := await read_frame(self._process.stdout)) is not None:
            number, what, payload = answer
            if what == "error":
                self._waiting.pop(number).set_exception(_error(*payload))
            else:
                self._waiting.pop(number).set_result(payload)


def _error(name: str, message: str) -> BaseException:
    kind = asyncio.CancelledError if name == "CancelledError" else getattr(errors, name)
    return kind(message)


def without_user_namespaces() -> tuple[str, ...]:
    """A command that runs another one where no user namespace can be made."""
    options = ("--unshare-user", "--disable-userns", "--dev-bind", "/", "/")
    return (str(bwrap_binary.locate().program), *options, "--")


async def start_as_ordinary_user(
    home: Path, launcher: str = "", groups: tuple[int, ...] = ()
) -> OtherUsersBackend:
    """`launcher`: Python code that starts the launcher in place of the product's own way.

    `groups` are those that the user is in beside its own.
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
) -> OtherUsersBackend:
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
    return OtherUsersBackend(process)
