"""A process that works on the queue of a database beside others, until no task is open.

python -m tests.support.worker_process DATABASE OWNER

It begins once a line comes from standard input, and writes the id of each task that it starts.
"""

import asyncio
import sys
from pathlib import Path

from appliance.domain.tasks import TaskResult
from appliance.scheduler import TaskContext
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, open_task_system, settings


async def work(context: TaskContext) -> TaskResult:
    print(context.task.public_id, flush=True)
    return ANSWER


async def _all_ended(system: TaskSystem) -> bool:
    stats = await system.service.get_queue_stats()
    return stats.queued == stats.running == 0


async def main(path: Path, owner: str) -> None:
    options = settings(workers=4)
    async with open_task_system(
        path, work, options, owner=owner, exclusive=False, start=False
    ) as system:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        await system.scheduler.start()
        await until(lambda: _all_ended(system), within_s=60)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
