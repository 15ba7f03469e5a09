"""Large requests are stored once and compressed, and read back unchanged on every path."""

import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config.settings import LimitSettings
from appliance.domain.tasks import SourceFile, Task, TaskRequest, TaskResult, TaskStatus
from appliance.errors import Conflict
from appliance.scheduler import TaskContext
from appliance.store import documents
from appliance.store.tables import task_storage
from tests.api.application import open_api, settings_with
from tests.support.task_system import ANSWER, TaskSystem, open_task_system

LINE = "def function_{0}(a, b):\n    return a + b * {0}\n\n"
SOURCE = "".join(LINE.format(number) for number in range(20_000))
PROMPT = "Explain these functions.\n" + SOURCE[:500_000]
REQUEST: dict[str, Any] = {
    "files": (SourceFile("source.py", SOURCE), SourceFile("é/other.py", SOURCE[::-1])),
    "tests": (SourceFile("test_source.py", SOURCE[:300_000]),),
    "context": {"note": "a" * 100_000},
}
SIZE = len(msgspec.json.encode(TaskRequest(PROMPT, **REQUEST)))


@pytest.fixture
async def system(tmp_path: Path) -> AsyncGenerator[TaskSystem, None]:
    """Nothing runs here: tasks stay queued."""
    async with open_task_system(tmp_path / "server.db", start=False) as opened:
        yield opened


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))


async def _stored_bytes(system: TaskSystem) -> int:
    async with system.db.read() as connection:
        return await task_storage.get_stored_bytes(connection, system.alice.user.id)


async def test_submit_when_large_then_the_file_grows_by_a_fraction_of_it(
    system: TaskSystem, tmp_path: Path
) -> None:
    await system.db.truncate_log()
    before = _size(tmp_path / "server.db")
    task = await system.submit(system.alice, PROMPT, **REQUEST)
    await system.db.truncate_log()
    grown = _size(tmp_path / "server.db") - before
    assert SIZE > 2_500_000
    assert grown < SIZE / 4
    async with system.db.read() as connection:
        stored = await connection.scalar(
            "SELECT LENGTH(request) + LENGTH(sources) FROM tasks WHERE id = :id", {"id": task.id}
        )
    assert await _stored_bytes(system) - len("{}") == stored
    assert stored < SIZE / 4
    assert len(await system.journal(task)) == 1


async def test_task_when_large_then_every_reader_gets_all_of_it(system: TaskSystem) -> None:
    request = TaskRequest(PROMPT, **REQUEST)
    task = await system.submit(system.alice, PROMPT, **REQUEST)
    assert task.request == request
    for who in (system.alice, system.admin):
        assert (await system.service.get(who, task.public_id)).request == request
    (listed,) = (await system.service.list(system.alice)).tasks
    assert listed.request == msgspec.structs.replace(request, files=(), tests=())
    again = await system.submit(system.bob, PROMPT, client_task_id="mine", **REQUEST)
    assert await system.submit(system.bob, PROMPT, client_task_id="mine", **REQUEST) == again
    with pytest.raises(Conflict):
        await system.submit(system.bob, PROMPT + ".", client_task_id="mine", **REQUEST)


async def test_task_when_large_and_the_server_starts_again_then_the_agent_gets_all_of_it(
    tmp_path: Path,
) -> None:
    seen: list[Task] = []

    async def work(context: TaskContext) -> TaskResult:
        seen.append(context.task)
        return ANSWER

    path = tmp_path / "server.db"
    async with open_task_system(path, work, start=False) as system:
        task = await system.submit(system.alice, PROMPT, **REQUEST)
        async with system.db.write() as tx:  # as a crash leaves a running task
            await tx.execute(
                "UPDATE tasks SET status = 'running', attempt = 1, started_at = 1, deadline_at = 2"
            )
    async with open_task_system(path, work) as system:
        ended = await system.final(task)
        await system.service.delete(system.alice, task.public_id)
        assert await _stored_bytes(system) == 0
    assert (ended.status, ended.attempt) == (TaskStatus.COMPLETED, 2)
    assert seen[0].request == ended.request == task.request


async def test_task_when_an_earlier_version_stored_it_as_text_then_it_is_read(
    system: TaskSystem,
) -> None:
    task = await system.submit(system.alice, PROMPT, **REQUEST)
    request = task.request_as(TaskRequest)
    text = {
        "request": msgspec.json.encode(
            msgspec.structs.replace(request, files=(), tests=())
        ).decode(),
        "sources": msgspec.json.encode(
            {
                "files": request.files,
                "tests": request.tests,
            }
        ).decode(),
    }
    async with system.db.write() as tx:
        await tx.execute("UPDATE tasks SET request = :request, sources = :sources", text)
    assert await system.service.get(system.alice, task.public_id) == task


async def test_submit_when_large_then_neither_encoded_nor_expanded_in_the_event_loop(
    system: TaskSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[tuple[str, bool]] = []
    encode, decode = documents.encode, documents.decode

    def note(name: str) -> None:
        threads.append((name, threading.current_thread() is threading.main_thread()))

    def watched_encode(value: Any) -> str | bytes:
        note("encode")
        return encode(value)

    def watched_decode(stored: str | bytes) -> Any:
        if isinstance(stored, bytes):
            note("decode")
        return decode(stored)

    monkeypatch.setattr(documents, "encode", watched_encode)
    monkeypatch.setattr(documents, "decode", watched_decode)
    task = await system.submit(system.alice, PROMPT, **REQUEST)
    await system.service.get(system.alice, task.public_id)
    assert set(threads) == {("encode", False), ("decode", False)}


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        ({"task": PROMPT, "persona": "developer"}, "task"),
        ({"prompt": PROMPT, "persona_config": {"persona": "developer"}}, "prompt"),
    ],
)
async def test_execute_when_large_then_read_back_by_every_route(
    body: dict[str, Any], prompt: str, tmp_path: Path
) -> None:
    limits = LimitSettings(requests_per_minute=1000, burst=1000)
    files = [{"path": "source.py", "content": SOURCE}]
    async with (
        open_api(tmp_path / "server.db", settings_with(limits=limits)) as api,
        api.client() as client,
    ):
        answer = await client.post("/api/v1/execute", json=body | {"files": files})
        assert answer.status_code == 200, answer.text
        task_id = answer.json()["task_id"]
        assert (await client.get(f"/api/v1/tasks/{task_id}")).json() == answer.json()
        (listed,) = (await client.get("/api/v1/tasks")).json()["tasks"]
        events = await client.get(f"/api/v1/tasks/{task_id}/events")
    assert listed["prompt"] == body[prompt][:200]
    assert "complete" in events.text
    request = api.script.seen[0].task.request_as(TaskRequest)
    assert (request.prompt, request.files) == (PROMPT, (SourceFile("source.py", SOURCE),))
    assert _size(tmp_path / "server.db") < 3 * len(SOURCE)
