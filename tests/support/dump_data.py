"""Writes the database of a server with some of everything as SQL, for the tests of later versions.

python -m tests.support.dump_data tests/store/data/schema_NNNN.sql

NNNN is the newest migration of the version that runs it. The first line is an API key of carol,
whose password is that of tests.support.accounts.
"""

import asyncio
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

from appliance.config.settings import AuthSettings
from appliance.domain.messages import TokenUsage
from appliance.domain.models import ModelInfo, ModelState
from appliance.domain.tasks import EventKind, ExecuteEvent, SourceFile, TaskRequest, TaskResult
from appliance.domain.usage import UsageKind, UsageStatus
from appliance.errors import InvalidInput
from appliance.inference.request.call import Call, Caller
from appliance.inference.request.route import Route
from appliance.inference.request.token_estimate import TokenEstimate
from appliance.inference.usage.pricing import Price, Prices
from appliance.inference.usage.recorder import StoredUsageRecorder
from appliance.scheduler import TaskContext
from tests.support.accounts import AccountsHarness
from tests.support.polling import until
from tests.support.task_system import ANSWER, TaskSystem, open_task_system

# Long enough to be stored compressed.
FILE = SourceFile("long.py", "x = 1\n" * 4000)


class _Worker:
    """Completes and fails tasks by their prompt; runs "stay" until it is cancelled."""

    def __init__(self) -> None:
        self.stays = False

    async def __call__(self, context: TaskContext) -> TaskResult:
        await context.emit(EventKind.PROGRESS, {"message": "working"})
        if context.task.request_as(TaskRequest).prompt == "fail":
            raise InvalidInput("no such language", details={"field": "language"})
        if context.task.request_as(TaskRequest).prompt == "stay":
            await context.emit(ExecuteEvent.CODE, {"content": "print(1)"})
            self.stays = True
            await asyncio.Event().wait()
        return ANSWER


async def _add_tasks(system: TaskSystem, worker: _Worker) -> None:
    completed = await system.submit(
        system.alice, client_task_id="completed", files=(FILE,), labels=("a-repo",)
    )
    await system.final(completed)
    await system.final(await system.submit(system.bob, "fail", client_task_id="failed"))
    await system.submit(system.alice, "stay", client_task_id="running")
    await until(lambda: worker.stays)
    await system.submit(system.alice, client_task_id="queued")
    cancelled = await system.submit(system.bob, client_task_id="cancelled")
    await system.scheduler.cancel(cancelled.id)


async def _add_accounts(system: TaskSystem) -> str:
    accounts = AccountsHarness(system.db, AuthSettings())
    await accounts.add("carol")
    await accounts.log_in("carol")
    return await accounts.create_key("carol", "tasks:read")


async def _add_usage(system: TaskSystem) -> None:
    recorder = StoredUsageRecorder(system.db, Prices({"far": Price(1_000_000.0, 2_000_000.0)}))
    await recorder.start()
    info = ModelInfo("m", "far", ModelState.READY, context_tokens=1000)
    route = Route("far", "m", info)
    for kind in (UsageKind.CHAT, UsageKind.TASK):
        call = Call(
            route=route, estimate=TokenEstimate(10, 5), caller=Caller("user:1", 1), kind=kind
        )
        record = recorder.reserve(call, route)
        if kind is UsageKind.CHAT:
            recorder.settle(record, TokenUsage(10, 5), UsageStatus.COMPLETED, exact=True)
    await recorder.close()


async def dump() -> str:
    """The SQL. The server still runs when it is read, as one that is killed at that moment."""
    with tempfile.TemporaryDirectory() as folder:
        path, worker = Path(folder) / "monkey.db", _Worker()
        async with open_task_system(path, worker) as system:
            await _add_tasks(system, worker)
            key = await _add_accounts(system)
            await _add_usage(system)
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                return "\n".join([f"-- key: {key}", *connection.iterdump(), ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(asyncio.run(dump()), "utf-8")
