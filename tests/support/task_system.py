"""A store with two users and a task service on it, with a handler that the test controls."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from appliance.config.settings import SchedulerSettings, Settings
from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import (
    Task,
    TaskEvent,
    TaskKind,
    TaskOrigin,
    TaskRequest,
    TaskResult,
    Verification,
)
from appliance.domain.users import Principal, Role, Scope, User
from appliance.events import EventBus
from appliance.scheduler import EndHook, RunTask, Scheduler, TaskContext, TaskHandler
from appliance.services.tasks.service import TaskService
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import task_events, user_feeds
from tests.support.polling import until

ANSWER = TaskResult(
    text="done",
    code="print(1)",
    explanation="",
    language="python",
    files=(),
    tests=None,
    verification=Verification(),
    branches=(),
    chosen=None,
    provider="none",
    model="none",
    usage=TokenUsage(1, 2, 0),
    generation_s=0.0,
)


class Work:
    """A handler whose tasks start, report and end when the test says so."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.cancelled: list[str] = []
        self.go = asyncio.Event()
        self.news = asyncio.Event()

    async def __call__(self, context: TaskContext) -> TaskResult:
        self.started.append(context.task.public_id)
        self.news.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(context.task.public_id)
            raise
        return ANSWER

    async def until_started(self, count: int) -> None:
        await until(lambda: len(self.started) >= count)


class TaskSystem(Struct):
    db: Database
    bus: EventBus
    scheduler: Scheduler
    service: TaskService
    alice: Principal
    bob: Principal
    admin: Principal
    viewer: Principal

    async def journal(self, task: Task) -> list[TaskEvent]:
        async with self.db.read() as connection:
            return await task_events.list_all(connection, task.id)

    async def kinds(self, task: Task) -> list[str]:
        return [event.kind for event in await self.journal(task)]

    async def submit(self, principal: Principal, prompt: str = "write it", **more: Any) -> Task:
        request = TaskRequest(prompt=prompt, **more)
        return await self.service.submit(principal, request, TaskOrigin.MONKEY)

    async def final(self, task: Task) -> Task:
        return await self.service.wait(self.admin, task.public_id, 20)


def settings(**scheduler: Any) -> Settings:
    """Settings with one worker, unless said otherwise."""
    return Settings(scheduler=SchedulerSettings(**({"workers": 1} | scheduler)))


async def answer_at_once(context: TaskContext) -> TaskResult:
    return ANSWER


@asynccontextmanager
async def open_task_system(
    path: Path,
    run: RunTask = answer_at_once,
    with_settings: Settings | None = None,
    *,
    start: bool = True,
    grace_s: float = 0.0,
    owner: str = "this-server",
    exclusive: bool = True,
    on_end: Sequence[EndHook] = (),
) -> AsyncGenerator[TaskSystem, None]:
    """The system on the database at `path`; drained and closed at the end.

    Of two systems on one database, one has another `owner` and is not `exclusive`.
    """
    db = await Database.open(path, exclusive=exclusive)
    try:
        async with db.write() as tx:
            alice, bob, admin, viewer = [
                await _user(tx, name, role)
                for name, role in (
                    ("alice", Role.DEVELOPER),
                    ("bob", Role.DEVELOPER),
                    ("root", Role.ADMIN),
                    ("vera", Role.VIEWER),
                )
            ]

        chosen = with_settings or settings()
        bus = EventBus(task_events.create_reader(db), user_feeds.create_reader(db))
        handlers = {TaskKind.EXECUTE.value: TaskHandler(run, chosen.scheduler.workers)}
        scheduler = Scheduler(db, bus, handlers, chosen.scheduler, owner=owner, on_end=on_end)
        service = TaskService(db, bus, scheduler, chosen)
        if start:
            await scheduler.start()
        yield TaskSystem(db, bus, scheduler, service, alice, bob, admin, viewer)
        await scheduler.drain(grace_s)
        bus.close()
    finally:
        await db.close()


async def _user(tx: Transaction, name: str, role: Role) -> Principal:
    await tx.execute(
        """
        INSERT INTO users (public_id, username, email, name, role, created_at, updated_at)
        VALUES (:public_id, :name, :email, :name, :role, :now, :now) ON CONFLICT DO NOTHING
        """,
        {
            "public_id": f"user_{name}",
            "name": name,
            "email": f"{name}@example.com",
            "role": role,
            "now": time.time(),
        },
    )
    user = await tx.one(User, "SELECT * FROM users WHERE username = :name", {"name": name})
    assert user
    return Principal(user, frozenset({Scope.ALL.value}))


def limited(principal: Principal, *scopes: Scope) -> Principal:
    """The same user through a key with these scopes only."""
    return msgspec.structs.replace(principal, scopes=frozenset(scope.value for scope in scopes))
