"""Tasks: submit, get, list, follow, wait, cancel, delete."""

import asyncio
import base64
import binascii
import hashlib
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from msgspec import Struct, structs

from appliance.agents.run.model_usage import read_usage
from appliance.config.settings import Settings
from appliance.domain.tasks import (
    EventKind,
    Task,
    TaskEvent,
    TaskKind,
    TaskRequest,
    TaskStatus,
)
from appliance.domain.user_events import UserEvent, UserEventKind
from appliance.domain.users import Principal, Role, Scope
from appliance.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    Unavailable,
)
from appliance.events import EventBus
from appliance.scheduler import QueueStats, Scheduler
from appliance.services.accounts import permissions
from appliance.services.accounts.validation import canonicalize
from appliance.services.tasks.validation import TASK_ID, validate_request
from appliance.store.database import Connection, Database, Transaction
from appliance.store.tables import (
    task_events,
    task_queue,
    task_storage,
    tasks,
    user_feeds,
    users,
)
from appliance.store.tables.tasks import PageFilter

MAX_PAGE_SIZE = 100
# Retry-After before any task has ended, when the scheduler has no estimate.
_DEFAULT_RETRY_S = 5.0
_CURSOR_BYTES = 8
# How many owners of a task id an error names.
_LISTED_OWNERS = 10


class TaskPage(Struct, frozen=True):
    """Tasks, newest first, without their files; `next_cursor` is None on the last page."""

    tasks: tuple[Task, ...]
    next_cursor: str | None


class UserFeed(Struct, frozen=True):
    """A feed, opened after event number `start`; `events` end when the server shuts down."""

    start: int
    events: AsyncGenerator[UserEvent, None]


class TaskService:
    """The use cases of tasks. Only administrators can see tasks of other users, by a credential
    with the scope `admin`."""

    def __init__(
        self, db: Database, bus: EventBus, scheduler: Scheduler, settings: Settings
    ) -> None:
        self._db = db
        self._bus = bus
        self._scheduler = scheduler
        self._settings = settings

    async def submit(
        self,
        principal: Principal,
        request: TaskRequest,
        origin: str,
    ) -> Task:
        """Enqueue a task of the dialect `origin`; it is on disk when this returns.

        Idempotent by `client_task_id`: the same request returns the first task, another
        request with that id raises Conflict. Raises InvalidInput, PayloadTooLarge,
        QueueFull, Forbidden.
        """
        permissions.require_scope(principal, Scope.TASKS_WRITE)
        if principal.user.role is Role.VIEWER:
            raise Forbidden("the role viewer can't submit tasks")
        request = validate_request(
            request, self._settings.limits, self._settings.agent.max_branches
        )
        new = await asyncio.to_thread(_prepare, principal.user.id, request, origin)
        try:
            async with self._db.write() as tx:
                repeated = await self._find_repeated(tx, new)
                if repeated is not None:
                    return repeated
                task, accepted = await self._enqueue(tx, new)
            self._bus.publish(accepted)
            return task
        finally:
            # Even after a cancellation during the commit: the task may be on disk.
            self._scheduler.wake()

    async def get(self, principal: Principal, public_id: str, owner: str | None = None) -> Task:
        """The principal's task, or that of the user `owner`. Raises NotFound.

        Without `owner`, an administrator who has no such task gets that of the only user who
        has one. Raises Conflict if several have, Forbidden if others give an `owner`.
        """
        permissions.require_scope(principal, Scope.TASKS_READ)
        return await self._add_usage(await self._find(principal, public_id, owner))

    async def list(
        self,
        principal: Principal,
        *,
        limit: int = 20,
        cursor: str | None = None,
        status: TaskStatus | None = None,
        kind: str | None = None,
        origin: str | None = None,
    ) -> TaskPage:
        """The principal's own tasks, of every kind and origin unless one is given.

        `limit` is 1 to MAX_PAGE_SIZE, `cursor` a next_cursor.
        """
        permissions.require_scope(principal, Scope.TASKS_READ)
        if not 1 <= limit <= MAX_PAGE_SIZE:
            raise InvalidInput.at("limit", f"must be 1 to {MAX_PAGE_SIZE}")
        page_filter = PageFilter(status, kind, origin)
        before = _decode_cursor(cursor) if cursor is not None else None
        async with self._db.read() as connection:
            rows = await tasks.list_page(
                connection, principal.user.id, page_filter, before, limit + 1
            )
        return _build_page(rows, limit)

    async def cancel(self, principal: Principal, public_id: str, owner: str | None = None) -> Task:
        """Cancel a queued or running task. Raises as `_find_to_change`, and TaskNotCancellable."""
        permissions.require_scope(principal, Scope.TASKS_WRITE)
        task = await self._find_to_change(principal, public_id, owner)
        return await self._add_usage(await self._scheduler.cancel(task.id))

    async def delete(self, principal: Principal, public_id: str, owner: str | None = None) -> None:
        """Delete an ended task with its journal.

        Raises as `_find_to_change`, and Conflict if it has not ended.
        """
        permissions.require_scope(principal, Scope.TASKS_WRITE)
        found = await self._find_to_change(principal, public_id, owner)
        async with self._db.write() as tx:
            task = await tasks.get(tx, found.id)
            if task is None:
                raise NotFound("no such task", details={"task_id": public_id})
            if not task.status.final:
                raise Conflict(
                    f"the task is {task.status} and can't be deleted; cancel it first",
                    details={"status": task.status.value},
                )
            await task_storage.delete(tx, [task.id])
            deleted = await user_feeds.append(
                tx,
                task.user_id,
                UserEventKind.TASK_DELETED,
                {"task_id": task.public_id},
                await tx.now(),
            )
        self._bus.publish(deleted)

    async def wait(self, principal: Principal, public_id: str, timeout_s: float) -> Task:
        """Wait for the end of a task. Raises DeadlineExceeded; the task then continues."""
        task = await self.get(principal, public_id)
        try:
            async with asyncio.timeout(timeout_s):
                await self._wait_for_end(task)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the task has not ended within {timeout_s:g} s; it continues, get its state later",
                details={"task_id": task.public_id, "timeout_s": timeout_s},
            ) from None
        return await self._get_ended(task.id)

    async def events(
        self, principal: Principal, public_id: str, after: int = 0, owner: str | None = None
    ) -> AsyncGenerator[TaskEvent, None]:
        """The task's journal after sequence number `after`, live, to its end; found as by `get`."""
        task = await self.get(principal, public_id, owner)
        async with aclosing(self._bus.follow(task.id, after)) as journal:
            async for event in journal:
                yield event

    async def open_feed(self, principal: Principal, after: int | None) -> UserFeed:
        """The events of all tasks of the principal after number `after`, live, without end.

        None means: after the newest event. A number that no event has had yet counts as 0.
        """
        permissions.require_scope(principal, Scope.TASKS_READ)
        user_id = principal.user.id
        async with self._db.read() as connection:
            last = await user_feeds.get_last_seq(connection, user_id)
        start = last if after is None else after
        if start > last:
            start = 0
        return UserFeed(start, self._bus.follow_user(user_id, start))

    async def get_queue_stats(self, kind: str = TaskKind.EXECUTE) -> QueueStats:
        """The number of queued and running tasks of a kind."""
        return await self._scheduler.stats(kind)

    async def _find_repeated(self, tx: Transaction, new: tasks.NewTask) -> Task | None:
        task = await tasks.find(tx, new.public_id, new.user_id)
        if task and await tasks.get_request_hash(tx, task.id) != new.request_hash:
            raise Conflict(
                f"the task {new.public_id!r} exists with a different request; "
                "choose another task_id",
                details={"task_id": new.public_id},
            )
        return task

    async def _enqueue(self, tx: Transaction, new: tasks.NewTask) -> tuple[Task, UserEvent]:
        await self._require_queue_space(tx, new.user_id)
        now = await tx.now()
        stored = await task_storage.get_stored_bytes(tx, new.user_id)
        task = await tasks.insert(tx, new, now)
        size = await task_storage.get_stored_bytes(tx, new.user_id) - stored
        self._require_storage(stored, size)
        return task, await task_events.append(tx, task, EventKind.ACCEPTED, {}, now)

    async def _require_queue_space(self, tx: Transaction, user_id: int) -> None:
        limits = self._settings.scheduler
        waiting = await task_queue.count_queued(tx)
        if waiting >= limits.queue_limit:
            raise self._queue_full("the task queue is full", waiting, limits.queue_limit)
        own = await task_queue.count_queued_for_user(tx, user_id)
        if own >= limits.queue_limit_per_user:
            raise self._queue_full(
                "your part of the task queue is full", own, limits.queue_limit_per_user
            )

    def _require_storage(self, stored: int, size: int) -> None:
        limit = self._settings.limits.stored_bytes_per_user
        if stored + size > limit:
            raise PayloadTooLarge(
                f"storage: {stored} bytes of tasks are stored for you and this one has {size}; "
                f"the limit is {limit}; delete ended tasks",
                details={"field": "storage", "stored": stored, "size": size, "limit": limit},
            )

    def _queue_full(self, reason: str, waiting: int, limit: int) -> QueueFull:
        return QueueFull(
            f"{reason} ({waiting} of {limit}); retry later",
            details={"queue_length": waiting, "queue_limit": limit},
            retry_after=max(
                1.0, self._scheduler.next_free_worker_s(TaskKind.EXECUTE) or _DEFAULT_RETRY_S
            ),
        )

    async def _find(self, principal: Principal, public_id: str, owner: str | None) -> Task:
        if owner is not None and not permissions.is_administrator(principal):
            raise Forbidden("`user` is for administrators with the scope 'admin'; leave it out")
        if not TASK_ID.fullmatch(public_id):
            raise NotFound("no such task")
        async with self._db.read() as connection:
            if owner is not None:
                user = await users.get_by_username(connection, canonicalize(owner))
                task = await tasks.find(connection, public_id, user.id) if user else None
            else:
                task = await tasks.find(connection, public_id, principal.user.id)
                if not task and permissions.is_administrator(principal):
                    task = await _find_of_only_owner(connection, public_id)
        if not task:
            raise NotFound("no such task", details={"task_id": public_id})
        return task

    async def _find_to_change(
        self, principal: Principal, public_id: str, owner: str | None
    ) -> Task:
        """As `get`, but a task of another user is found only by its `owner`.

        Clients choose ids, and repeat requests: one for a task of their own that is gone must not
        reach another user's. Raises Conflict.
        """
        task = await self._find(principal, public_id, owner)
        if owner is None and task.user_id != principal.user.id:
            raise Conflict(
                f"the task {public_id!r} is another user's; name the owner by ?user=USERNAME",
                details={"task_id": public_id},
            )
        return task

    async def _wait_for_end(self, task: Task) -> None:
        if not task.status.final:
            async with aclosing(self._bus.follow(task.id, after=1)) as journal:
                async for _ in journal:
                    pass

    async def _get_ended(self, task_id: int) -> Task:
        async with self._db.read() as connection:
            task = await tasks.get(connection, task_id)
        if not task or not task.status.final:
            raise Unavailable(
                "the server is shutting down; the task continues after the next start"
            )
        return await self._add_usage(task)

    async def _add_usage(self, task: Task) -> Task:
        """The task with what it used, if it has no result that says so."""
        if not isinstance(task.request, TaskRequest) or task.result:
            return task
        if not task.status.final or not task.attempt:
            return task
        async with self._db.read() as connection:
            events = await task_events.list_model_calls(connection, task.id)
        return structs.replace(task, usage_by_model=read_usage(events))


async def _find_of_only_owner(connection: Connection, public_id: str) -> Task | None:
    """The task of the only user who has one with this id. Raises Conflict if several have."""
    owners = await tasks.list_owners(connection, public_id, _LISTED_OWNERS)
    if len(owners) > 1:
        raise Conflict(
            f"several users have a task {public_id!r}; name the owner by ?user=USERNAME",
            details={"task_id": public_id, "users": [owner.username for owner in owners]},
        )
    return await tasks.find(connection, public_id, owners[0].id) if owners else None


def _prepare(user_id: int, request: TaskRequest, origin: str) -> tasks.NewTask:
    public_id = request.client_task_id or f"task_{secrets.token_hex(12)}"
    return tasks.prepare(public_id, user_id, request, _hash_request(request), origin)


def _hash_request(request: TaskRequest) -> str:
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()


def _build_page(rows: Sequence[Task], limit: int) -> TaskPage:
    """A page of `limit` tasks from limit + 1 rows, whose last tells whether there are more."""
    page = tuple(rows[:limit])
    return TaskPage(page, _encode_cursor(page[-1].id) if len(rows) > limit else None)


def _encode_cursor(task_id: int) -> str:
    return base64.urlsafe_b64encode(task_id.to_bytes(_CURSOR_BYTES)).decode().rstrip("=")


def _decode_cursor(cursor: str) -> int:
    try:
        raw = base64.b64decode(cursor + "=", altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    number = int.from_bytes(raw)
    if len(raw) != _CURSOR_BYTES or number >= 2**63:
        raise InvalidInput.at(
            "cursor", "unknown or malformed; omit it to start from the first page"
        )
    return number
