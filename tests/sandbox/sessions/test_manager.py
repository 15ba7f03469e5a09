"""Sessions of several users: ownership, numbers, expiry, and what a restart finds."""

import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import RunRequest
from appliance.domain.users import Role, User
from appliance.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    SandboxUnavailable,
)
from appliance.sandbox.runner import SandboxRunner
from appliance.sandbox.sessions import archive_edit
from appliance.sandbox.sessions.archive_index import ArchiveIndex
from appliance.sandbox.sessions.manager import DIRECTORY, SessionLimits, SessionManager
from appliance.sandbox.sessions.records import SessionStore
from tests.sandbox.test_runner import Backend, IsolationLevel
from tests.support.sandbox_sessions import pieces, read

ALICE = User(1, "user_1", "alice", "a@example.com", "Alice", Role.DEVELOPER, False, 0.0)
BOB = structs.replace(ALICE, id=2, public_id="user_2")
SETTINGS = SandboxSettings(sessions=3, sessions_per_user=2, session_idle_s=60)


class Sessions(Backend):
    """Has sessions as far as they run nothing."""

    problem = ""

    def session_problem(self) -> str:
        return self.problem


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Managed:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = Clock()
        self.backend = Sessions("real", IsolationLevel.NAMESPACES)

    async def start(self, **settings: Any) -> SessionManager:
        changed = structs.replace(SETTINGS, **settings)
        runner = SandboxRunner({"real": self.backend}, changed)
        await runner.start()
        manager = SessionManager(runner, self.folder, changed, self.clock)
        await manager.start()
        return manager

    def names(self) -> set[str]:
        return {path.name for path in (self.folder / DIRECTORY).iterdir()}


@pytest.fixture
def managed(tmp_path: Path) -> Managed:
    return Managed(tmp_path)


async def test_session_of_another_user_when_named_then_not_found(managed: Managed) -> None:
    manager = await managed.start()
    session = await manager.open(ALICE)
    name = session.record.id

    with pytest.raises(NotFound):
        manager.find(BOB.id, name)
    with pytest.raises(NotFound):
        await manager.close(BOB.id, name)
    for unknown in ("", "..", f"../{name}", name.upper() + "x"):
        with pytest.raises(NotFound):
            manager.find(ALICE.id, unknown)
    assert manager.find(ALICE.id, name) is session
    assert manager.of_user(BOB.id) == ()
    await manager.stop()


async def test_sessions_when_too_many_then_refused_until_one_is_closed(managed: Managed) -> None:
    manager = await managed.start()
    first = await manager.open(ALICE)
    await manager.open(ALICE)

    with pytest.raises(Conflict, match="2 of 2 sessions"):
        await manager.open(ALICE)
    await manager.open(BOB)
    with pytest.raises(QueueFull, match="all 3 sessions"):
        await manager.open(BOB)
    await manager.close(ALICE.id, first.record.id)
    await manager.open(ALICE)
    assert first.record.id not in managed.names()
    await manager.stop()


async def test_limits_when_above_the_settings_then_refused(managed: Managed) -> None:
    manager = await managed.start()

    for limits in (
        SessionLimits(max_bytes=(64 << 20) + 1),
        SessionLimits(max_files=15),
        SessionLimits(lifetime_s=float("nan")),
        SessionLimits(idle_s=61),
    ):
        with pytest.raises(InvalidInput, match="out of range"):
            await manager.open(ALICE, limits)
    record = (await manager.open(ALICE, SessionLimits(max_bytes=4096, idle_s=5))).record
    assert (record.max_bytes, record.max_files, record.idle_s) == (4096, 4096, 5)
    await manager.stop()


async def test_session_when_restarted_then_its_files_are_there(managed: Managed) -> None:
    manager = await managed.start()
    session = await manager.open(ALICE)
    name = session.record.id
    await session.put("a/b", pieces(b"content"))
    await manager.stop()
    folder = managed.folder / DIRECTORY / name
    (folder / "workspace-9").write_bytes(b"of a run that a crash has ended")
    with (folder / "workspace-1").open("ab") as file:
        file.write(b"of a put that a crash has ended")

    again = (await managed.start()).find(ALICE.id, name)

    assert again.record == session.record
    assert await read(again, "a/b") == b"content"
    assert await again.put("c", pieces(b"1")) == 1
    assert [entry.name for entry in await again.list()] == ["a", "c"]
    assert {path.name for path in folder.iterdir()} == {"record.json", "workspace-1"}


async def test_session_when_expired_or_incomplete_at_the_start_then_removed(
    managed: Managed,
) -> None:
    manager = await managed.start(sessions_per_user=3, session_idle_s=1000, sessions=9)
    kept, idle, old = [
        (await manager.open(ALICE, limits)).record.id
        for limits in (SessionLimits(), SessionLimits(idle_s=50), SessionLimits(lifetime_s=50))
    ]
    await manager.stop()
    root = managed.folder / DIRECTORY
    for name in (".new-x", f".old-{idle}", "not-json", "no-archive", "renamed"):
        (root / name).mkdir()
    (root / ".old-x" / "deep").mkdir(parents=True)
    (root / "not-json" / "record.json").write_bytes(b"{")
    record = json.loads((root / kept / "record.json").read_bytes())
    (root / "renamed" / "record.json").write_text(json.dumps(record))
    record |= {"id": "no-archive", "archive": "workspace-1", "archive_bytes": 5}
    (root / "no-archive" / "record.json").write_text(json.dumps(record))
    managed.clock.now += 55

    manager = await managed.start()

    assert managed.names() == {kept}
    for gone in (idle, old):
        with pytest.raises(NotFound):
            manager.find(ALICE.id, gone)
    managed.clock.now += 1000
    with pytest.raises(NotFound):
        manager.find(ALICE.id, kept)
    await manager.remove_expired()
    assert managed.names() == set()
    await manager.stop()


async def test_session_when_the_root_file_system_has_changed_then_it_runs_nothing(
    managed: Managed,
) -> None:
    session = await (await managed.start(rootfs="")).open(ALICE)
    manager = await managed.start(rootfs="debian")

    with pytest.raises(Conflict, match="root file system has changed"):
        await manager.exec(ALICE, manager.find(1, session.record.id), RunRequest(("sh",)))
    await manager.stop()


async def test_session_when_the_backend_lacks_a_part_then_it_says_which(managed: Managed) -> None:
    managed.backend.problem = "sessions need X; install it"
    manager = await managed.start()

    with pytest.raises(SandboxUnavailable, match="sessions need X; install it"):
        await manager.open(ALICE)
    await manager.stop()
    runner = SandboxRunner({"old": Backend("old", IsolationLevel.NAMESPACES)}, SETTINGS)
    await runner.start()
    with pytest.raises(SandboxUnavailable, match="backend old has no sessions"):
        await SessionManager(runner, managed.folder, SETTINGS).open(ALICE)


async def test_file_when_it_could_not_be_added_then_the_next_archive_can_be_written(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await managed.start()
    session = await manager.open(ALICE, SessionLimits(max_bytes=8192, max_files=16))
    folder = managed.folder / DIRECTORY / session.record.id
    with pytest.raises(PayloadTooLarge):
        await session.put("a", pieces(bytes(4096), bytes(8192)))
    assert [path.name for path in folder.iterdir()] == ["record.json"]

    compact, failures = archive_edit.compact, list[Path]()

    def fail(file: Path, size: int, index: ArchiveIndex, target: Path) -> int:
        compact(file, size, index, target)
        failures.append(target)
        raise OSError(errno.ENOSPC, "the disk is full")

    monkeypatch.setattr(archive_edit, "compact", fail)
    with suppress(SandboxUnavailable):
        for _ in range(100):  # until what was replaced is removed
            await session.put("a", pieces(bytes(8192)))
    assert failures == [folder / "workspace-2"]
    monkeypatch.undo()
    assert await session.put("a", pieces(b"end")) == 3
    assert {path.name for path in folder.iterdir()} == {"record.json", session.record.archive}
    await manager.stop()


async def test_file_when_the_disk_is_full_then_read_all_the_same(
    managed: Managed, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = await managed.start()
    session = await manager.open(ALICE)
    await session.put("a", pieces(b"content"))

    def fail(*_: Any, durable: bool) -> None:
        raise OSError(errno.ENOSPC, f"the disk is full ({durable=})")

    monkeypatch.setattr(SessionStore, "save", fail)
    with pytest.raises(SandboxUnavailable, match="disk is full"):
        await session.put("b", pieces(b"more"))
    assert await read(session, "a") == b"content"
    monkeypatch.undo()
    assert await session.put("b", pieces(b"more")) == 4
    await manager.stop()


async def test_workspace_when_the_backend_does_not_keep_it_then_the_run_fails(
    managed: Managed,
) -> None:
    manager = await managed.start()
    session = await manager.open(ALICE)

    with pytest.raises(SandboxUnavailable, match="does not keep workspaces"):
        await manager.exec(ALICE, session, RunRequest(("sh",)))
    await manager.stop()
