"""The task store after crashes: no accepted task is lost, none ends twice."""

import asyncio
import random
import sys
from pathlib import Path

from msgspec import Struct

from appliance.domain.tasks import TaskStatus
from appliance.store.sqlite.database import Connection
from tests.support.crash_process import work
from tests.support.polling import until
from tests.support.task_system import TaskSystem, open_task_system, settings

ROUNDS = 6


class _Count(Struct):
    public_id: str
    status: TaskStatus
    ends: int
    lines: int
    last: int


async def _run_and_kill(path: Path, prefix: str) -> set[str]:
    """Run a server and kill it at a random moment; returns the ids it reported as accepted."""
    argv = [sys.executable, "-m", "tests.support.crash_process", str(path), prefix]
    child = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    assert child.stderr
    assert await child.stderr.readline() == b"ready\n"
    await asyncio.sleep(random.uniform(0.01, 0.4))
    child.kill()
    output = await child.stderr.read()
    await child.wait()
    # An incomplete last line was not reported.
    return set(output.decode().split("\n")[:-1])


async def _counts(connection: Connection) -> list[_Count]:
    return await connection.all(
        _Count,
        """
        SELECT public_id, status, COUNT(*) AS lines, MAX(seq) AS last,
               SUM(task_events.kind IN ('completed', 'failed', 'cancelled')) AS ends
        FROM tasks JOIN task_events ON task_id = id GROUP BY id
        """,
    )


async def _all_ended(system: TaskSystem) -> bool:
    stats = await system.service.get_queue_stats()
    return stats.queued == stats.running == 0


async def test_server_when_killed_repeatedly_then_nothing_is_lost_or_ended_twice(tmp_path: Path):
    path = tmp_path / "appliance.db"
    accepted: set[str] = set()
    for number in range(ROUNDS):
        accepted |= await _run_and_kill(path, f"round{number}")
    assert accepted
    async with open_task_system(path, work, settings(workers=3, max_attempts=1000)) as system:
        await until(lambda: _all_ended(system), within_s=60)
        async with system.db.read() as connection:
            counts = await _counts(connection)
        assert await system.db.integrity_check() == []
    assert accepted <= {count.public_id for count in counts}
    assert {count.status for count in counts} == {TaskStatus.COMPLETED}
    assert {count.ends for count in counts} == {1}
    assert all(count.lines == count.last for count in counts)
