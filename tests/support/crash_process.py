"""A process to be killed: submits and runs tasks; writes accepted task ids to standard error.

python -m tests.support.crash_process DATABASE NAME-PREFIX
"""

import asyncio
import sys
from itertools import count
from pathlib import Path

from appliance.domain.tasks import EventKind, TaskResult
from appliance.errors import QueueFull
from appliance.scheduler import TaskContext
from tests.support.task_system import ANSWER, open_task_system, settings


async def work(context: TaskContext) -> TaskResult:
    for step in range(2):
        await context.emit(EventKind.PROGRESS, {"step": step})
    return ANSWER


async def main(path: Path, prefix: str) -> None:
    async with open_task_system(path, work, settings(workers=3, max_attempts=1000)) as system:
        print("ready", file=sys.stderr, flush=True)
        for number in count():
            name = f"{prefix}-{number}"
            try:
                await system.submit(system.alice if number % 2 else system.bob, client_task_id=name)
            except QueueFull:
                await asyncio.sleep(0.01)
            else:
                print(name, file=sys.stderr, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
