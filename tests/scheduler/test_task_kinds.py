"""Tasks of several kinds in one queue."""

from pathlib import Path

import pytest

from appliance.domain.tasks import TaskKind, TaskOrigin, TaskRequest, TaskResult, TaskStatus
from appliance.scheduler import TaskContext
from tests.support.task_system import ANSWER, open_task_system


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "monkey.db"


async def test_task_when_its_kind_is_unknown_then_it_stays_queued_and_listed(path: Path) -> None:
    async with open_task_system(path, start=False) as system:
        newer, known = await system.submit(system.alice), await system.submit(system.alice)
        async with system.db.write() as tx:
            await tx.execute(
                "UPDATE tasks SET kind = 'newer', origin = 'new' WHERE id = :id", {"id": newer.id}
            )
        await system.scheduler.start()
        await system.final(known)
        page = await system.service.list(system.alice)
        (of_kind,) = (await system.service.list(system.alice, kind=TaskKind.EXECUTE)).tasks
        (of_origin,) = (await system.service.list(system.alice, origin=TaskOrigin.MONKEY)).tasks
    kept = page.tasks[1]
    assert (kept.id, kept.kind, kept.origin) == (newer.id, "newer", "new")
    assert (kept.status, kept.request, kept.result) == (TaskStatus.QUEUED, None, None)
    assert of_kind == of_origin == page.tasks[0]
    assert of_kind.id == known.id


async def test_row_when_stored_by_an_older_program_then_it_is_an_execute_task(path: Path) -> None:
    async with open_task_system(path, start=False) as system:
        async with system.db.write() as tx:
            await tx.execute(
                """
                INSERT INTO tasks (public_id, user_id, priority, created_at, updated_at,
                                   request_hash, request, sources)
                VALUES ('old', :user, 1, 1, 1, '', :request, :sources)
                """,
                {
                    "user": system.alice.user.id,
                    "request": '{"prompt": "add", "files": [], "tests": []}',
                    "sources": '{"files": [{"path": "a.py", "content": "1"}], "tests": []}',
                },
            )
        await system.scheduler.start()
        task = await system.service.wait(system.alice, "old", 20)
    assert (task.kind, task.origin) == (TaskKind.EXECUTE, TaskOrigin.MONKEY)
    assert task.request is not None
    assert [file.path for file in task.request.files] == ["a.py"]


async def test_task_when_its_request_is_malformed_then_it_fails_and_the_others_run(
    path: Path,
) -> None:
    async def work(context: TaskContext) -> TaskResult:
        context.task.request_as(TaskRequest)
        return ANSWER

    async with open_task_system(path, work, start=False) as system:
        broken = await system.submit(system.alice)
        async with system.db.write() as tx:
            await tx.execute("UPDATE tasks SET request = '{}'")
        other = await system.submit(system.bob)
        await system.scheduler.start()

        assert (await system.final(other)).status is TaskStatus.COMPLETED
        ended = await system.final(broken)
        assert ended.failure is not None
        assert ended.failure.code == "INTERNAL_ERROR"
