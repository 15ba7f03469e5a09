"""Tasks as their owners see them: submit, look, follow, cancel."""

import asyncio
import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct

from appliance.config.settings import Settings
from appliance.domain.tasks import EventKind, Task, TaskEvent, TaskRequest, TaskStatus
from appliance.domain.users import Principal, Role, Scope
from appliance.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    QueueFull,
    Unavailable,
)
from appliance.events import EventBus
from appliance.scheduler import QueueStats, Scheduler
from appliance.services.tasks.validation import TASK_ID, admissible
from appliance.store.sqlite.database import Database, Transaction
from appliance.store.tables import task_events, task_queue, tasks

MAX_PAGE = 100
# Said to a client when no task has ended yet, so that nothing better is known.
_UNKNOWN_RETRY_S = 5.0
_LONGEST_ID_BYTES = 8


class TaskPage(Struct, frozen=True):
    """Tasks, newest first, without the callers' files; `next_cursor` None: the last page."""

    tasks: tuple[Task, ...]
    next_cursor: str | None


class TaskService:
    """The use cases around a task. Another user's task is as good as none, but for an admin."""

    def __init__(
        self, db: Database, bus: EventBus, scheduler: Scheduler, settings: Settings
    ) -> None:
        self._db = db
        self._bus = bus
        self._scheduler = scheduler
        self._settings = settings

    async def submit(self, principal: Principal, request: TaskRequest) -> Task:
        """Put a task into the queue; it is on disk when this returns.

        The same request under the same `client_task_id` returns the task that it made
        first; another request under that id raises Conflict. Raises InvalidInput or
        PayloadTooLarge for what the box does not take, QueueFull, Forbidden.
        """
        _require(principal, Scope.TASKS_WRITE)
        if principal.user.role is Role.VIEWER:
            raise Forbidden("viewers may look at tasks, not submit them")
        request = admissible(request, self._settings.limits, self._settings.agent.max_branches)
        new = tasks.NewTask(
            public_id=request.client_task_id or f"task_{secrets.token_hex(12)}",
            user_id=principal.user.id,
            request=request,
            request_hash=_hash(request),
        )
        try:
            async with self._db.write() as tx:
                return await self._repeated(tx, new) or await self._accept(tx, new)
        finally:
            # Also when the caller went away during the commit: the task may be on disk.
            self._scheduler.wake()

    async def get(self, principal: Principal, public_id: str) -> Task:
        """A task of the principal's; an admin's own first, then anyone's. Raises NotFound."""
        _require(principal, Scope.TASKS_READ)
        return await self._find(principal, public_id)

    async def list(
        self,
        principal: Principal,
        *,
        limit: int = 20,
        cursor: str | None = None,
        status: TaskStatus | None = None,
    ) -> TaskPage:
        """The principal's own tasks. `limit` is 1 to MAX_PAGE, `cursor` a page's next_cursor."""
        _require(principal, Scope.TASKS_READ)
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput.at("limit", f"must be from 1 to {MAX_PAGE}")
        before = _decode_cursor(cursor) if cursor is not None else None
        async with self._db.read() as connection:
            found = await tasks.page(connection, principal.user.id, status, before, limit + 1)
        return _page(found, limit)

    async def cancel(self, principal: Principal, public_id: str) -> Task:
        """End a task that has not ended. Raises NotFound, TaskNotCancellable."""
        _require(principal, Scope.TASKS_WRITE)
        task = await self._find(principal, public_id)
        return await self._scheduler.cancel(task.id)

    async def wait(self, principal: Principal, public_id: str, timeout_s: float) -> Task:
        """The task once it has ended. Raises DeadlineExceeded; the task goes on then."""
        task = await self.get(principal, public_id)
        try:
            async with asyncio.timeout(timeout_s):
                await self._end_of(task)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the task has not ended within {timeout_s:g} s; it goes on, ask for it later",
                details={"task_id": task.public_id, "timeout_s": timeout_s},
            ) from None
        return await self._ended(task.id)

    async def events(
        self, principal: Principal, public_id: str, after: int = 0
    ) -> AsyncGenerator[TaskEvent, None]:
        """The task's journal from `after` on, live, up to its end. Raises NotFound."""
        task = await self.get(principal, public_id)
        async with aclosing(self._bus.follow(task.id, after)) as journal:
            async for event in journal:
                yield event

    async def queue(self) -> QueueStats:
        """How busy the box is."""
        return await self._scheduler.stats()

    async def _repeated(self, tx: Transaction, new: tasks.NewTask) -> Task | None:
        known = await tasks.find(tx, new.public_id, new.user_id)
        if known and await tasks.request_hash(tx, known.id) != new.request_hash:
            raise Conflict(
                f"the task {new.public_id!r} was asked for with other content; "
                "choose another task_id",
                details={"task_id": new.public_id},
            )
        return known

    async def _accept(self, tx: Transaction, new: tasks.NewTask) -> Task:
        await self._require_place(tx, new.user_id)
        now = time.time()
        task = await tasks.insert(tx, new, now)
        await task_events.append(tx, task.id, EventKind.ACCEPTED, {}, now)
        return task

    async def _require_place(self, tx: Transaction, user_id: int) -> None:
        limits = self._settings.scheduler
        waiting = await task_queue.queue_length(tx)
        if waiting >= limits.queue_limit:
            raise self._full(
                f"the queue is full: {waiting} tasks wait", waiting, limits.queue_limit
            )
        own = await task_queue.queue_length_of(tx, user_id)
        if own >= limits.queue_limit_per_user:
            raise self._full(f"{own} of your tasks wait already", own, limits.queue_limit_per_user)

    def _full(self, reason: str, waiting: int, limit: int) -> QueueFull:
        return QueueFull(
            f"{reason}, and no more than {limit} may; try again later",
            details={"queue_length": waiting, "queue_limit": limit},
            retry_after=max(1.0, self._scheduler.next_place_s() or _UNKNOWN_RETRY_S),
        )

    async def _find(self, principal: Principal, public_id: str) -> Task:
        if not TASK_ID.fullmatch(public_id):
            raise NotFound("there is no such task")
        async with self._db.read() as connection:
            found = await tasks.find(connection, public_id, principal.user.id)
            if not found and principal.user.role is Role.ADMIN:
                found = await tasks.find_anyones(connection, public_id)
        if not found:
            raise NotFound("there is no such task", details={"task_id": public_id})
        return found

    async def _end_of(self, task: Task) -> None:
        if not task.status.final:
            async with aclosing(self._bus.follow(task.id, after=1)) as journal:
                async for _ in journal:
                    pass

    async def _ended(self, task_id: int) -> Task:
        async with self._db.read() as connection:
            task = await tasks.get(connection, task_id)
        if not task or not task.status.final:
            raise Unavailable("the box is shutting down; the task goes on after its next start")
        return task


def _require(principal: Principal, scope: Scope) -> None:
    if not principal.may(scope):
        raise Forbidden(f"this needs the scope {scope}", details={"scope": scope.value})


def _hash(request: TaskRequest) -> str:
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()


def _page(found: Sequence[Task], limit: int) -> TaskPage:
    shown = tuple(found[:limit])
    more = len(found) > limit
    return TaskPage(shown, _encode_cursor(shown[-1].id) if more else None)


def _encode_cursor(task_id: int) -> str:
    return base64.urlsafe_b64encode(task_id.to_bytes(_LONGEST_ID_BYTES)).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        raw = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    number = int.from_bytes(raw)
    if len(raw) != _LONGEST_ID_BYTES or number >= 2**63:
        raise InvalidInput.at("cursor", "is none that this box gave out; start without one")
    return number
