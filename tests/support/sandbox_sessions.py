"""Sandbox sessions for tests, on a backend that may be another user's."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from msgspec import structs

from appliance.domain.execution import BackendStatus, EndReason, Limits, RunRequest, RunResult
from appliance.sandbox.sessions.records import SessionRecord, SessionStore
from appliance.sandbox.sessions.session import SandboxSession
from appliance.spi.sandbox import RunWatcher
from tests.support.sandbox import GENEROUS, ORDINARY_USER, Backend, RemoteBackend

_MAKE = """
import os
os.makedirs('d/e')
with open('d/e/f', 'wb') as file: file.write(open('in/data', 'rb').read()[-3:])
os.link('d/e/f', 'h'); os.symlink('f', 'd/e/l'); os.mkfifo('p'); open('s', 'w').truncate(1 << 20)
os.chmod('h', 0o700); os.utime('h', (1e9, 1e9))
while 1: print('flood' * 1000)
"""
_SHOW = """
import os
found = os.stat('h')
print(oct(found.st_mode), found.st_nlink, int(found.st_mtime), open('d/e/l', 'rb').read(),
      os.path.getsize('s'), sorted(os.listdir()))
"""
RECORD = SessionRecord("s", 1, 8 << 20, 256, 0.0, 0.0, 1e12, 1e12)


class SessionHarness:
    """Sessions in a folder that belongs to the user of the backend."""

    def __init__(self, backend: Backend, folder: Path) -> None:
        self.backend = backend
        self.store = SessionStore(folder)
        self._user = ORDINARY_USER if isinstance(backend, RemoteBackend) else os.geteuid()
        self._count = 0

    def open(self, **record: Any) -> SandboxSession:
        self._count += 1
        made = structs.replace(RECORD, id=f"s{self._count}", **record)
        self.store.create(made)
        return self.session(made)

    def session(self, record: SessionRecord) -> SandboxSession:
        return SandboxSession(self.store, record, lambda: 1.0, queue=2)

    async def run(self, request: RunRequest, _watcher: RunWatcher | None = None) -> RunResult:
        assert request.workspace is not None
        folder = Path(request.workspace.target).parent
        for path in (folder.parent.parent, folder.parent, folder, *folder.iterdir()):
            os.chown(path, self._user, self._user)
        return await self.backend.run(request)

    async def exec(self, session: SandboxSession, *argv: str, **more: Any) -> RunResult:
        more.setdefault("limits", GENEROUS)
        return await session.exec(self.run, RunRequest(argv, **more))


class InSession:
    """A backend that runs each request as the second one of a session of its own."""

    def __init__(self, harness: SessionHarness) -> None:
        self._harness = harness

    async def run(self, request: RunRequest) -> RunResult:
        limits = request.limits
        session = self._harness.open(
            max_bytes=limits.workspace_bytes, max_files=limits.workspace_files
        )
        try:
            first = await self._harness.exec(session, "sh", "-c", "echo made > made")
            assert first.workspace is not None
            assert first.workspace.saved, first
            return await session.exec(self._harness.run, request)
        finally:
            await session.close()

    async def probe(self) -> BackendStatus:
        return await self._harness.backend.probe()

    async def close(self) -> None:
        await self._harness.backend.close()


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def read(session: SandboxSession, path: str) -> bytes:
    return b"".join([piece async for piece in await session.get(path)])


async def check_workspace_outlives_runs(harness: SessionHarness, limits: Limits) -> None:
    """What every backend keeps, also of a program that is ended at a limit."""
    session = harness.open()
    await session.put("in/data", pieces(bytes(100_000), b"end"))
    flood = structs.replace(limits, output_killed_bytes=100_000)

    first = await harness.exec(session, "python", "-c", _MAKE, limits=flood)
    second = await harness.exec(session, "python", "-c", _SHOW, limits=limits)

    assert first.reason is EndReason.OUTPUT
    assert first.workspace is not None
    assert first.workspace.saved, first
    assert len(first.workspace.refused) == 1
    assert second.stdout == b"0o100700 2 1000000000 b'end' 1048576 ['d', 'h', 'in', 's']\n", second
    assert [entry.name for entry in await session.list("d/e")] == ["f", "l"]
    assert await read(session, "h") == b"end"
