"""The table `tasks`: requests and results. Queue operations are in task_queue."""

from collections.abc import Sequence
from typing import Any

import msgspec
import structlog
from msgspec import Struct, field, structs

from appliance.domain.task_kinds import SCHEMAS, KindSchema, kind_of
from appliance.domain.tasks import (
    Priority,
    Task,
    TaskFailure,
    TaskRequest,
    TaskStatus,
)
from appliance.store import documents
from appliance.store.database import Connection, Transaction

_MAX_ID = 2**63 - 1
_log = structlog.get_logger()
PRIORITY_RANK = {Priority.INTERACTIVE: 0, Priority.NORMAL: 1, Priority.BATCH: 2}


class NewTask(Struct, frozen=True):
    """The values of a new task. `request_hash` identifies the request's content.

    `stored_request` and `stored_sources` are the request as the table holds it.
    """

    public_id: str
    user_id: int
    kind: str
    origin: str
    request: TaskRequest
    request_hash: str
    stored_request: str | bytes
    stored_sources: str | bytes


class TaskOwner(Struct, frozen=True):
    """A user who has a task."""

    id: int
    username: str


class TaskRow(Struct, frozen=True):
    """A row; `request` and `result` are JSON objects of the kind.

    `sources` are the large fields of the request, in a column of their own, so that lists do not
    load them.
    """

    id: int
    public_id: str
    user_id: int
    kind: str
    origin: str
    request: dict[str, Any]
    status: TaskStatus
    attempt: int
    created_at: float
    updated_at: float
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    result: dict[str, Any] | None = None
    failure: TaskFailure | None = None
    sources: dict[str, Any] = field(default_factory=dict[str, Any])

    def to_task(self) -> Task:
        fields = structs.asdict(self)
        large_fields = fields.pop("sources")
        schema = SCHEMAS.get(self.kind)
        fields["request"] = schema and self._convert_request(schema, large_fields)
        if self.result is not None:
            fields["result"] = schema and msgspec.convert(self.result, schema.result)
        return Task(**fields)

    def _convert_request(
        self, schema: KindSchema, large_fields: dict[str, Any]
    ) -> TaskRequest | None:
        """None for one that can't be read: its task fails, and holds up no other."""
        try:
            return msgspec.convert(self.request | large_fields, schema.request)
        except msgspec.ValidationError as error:
            _log.error("the request of a task is malformed", task=self.public_id, reason=str(error))
            return None


def prepare(
    public_id: str,
    user_id: int,
    request: TaskRequest,
    request_hash: str,
    origin: str,
) -> NewTask:
    """Encode a new task. Call it in a thread: a large request takes long."""
    kind = kind_of(request)
    fields = structs.asdict(request)
    sources = {name: fields.pop(name) for name in SCHEMAS[kind].large_fields}
    return NewTask(
        public_id=public_id,
        user_id=user_id,
        kind=kind,
        origin=origin,
        request=request,
        request_hash=request_hash,
        stored_request=documents.encode(fields),
        stored_sources=documents.encode(sources),
    )


async def insert(tx: Transaction, new: NewTask, now: float) -> Task:
    """Insert a queued task and return it. Its id was never used before, see `deleted_tasks`."""
    task_id = await tx.scalar(
        """
        INSERT INTO tasks (id, public_id, user_id, kind, origin, priority, timeout_s,
                           created_at, updated_at, request_hash, request, sources)
        VALUES ((SELECT MAX(used.id) + 1
                 FROM (SELECT last_id AS id FROM deleted_tasks
                       UNION ALL SELECT MAX(id) FROM tasks) AS used),
                :public_id, :user_id, :kind, :origin, :priority, :timeout_s, :now, :now,
                :request_hash, :request, :sources)
        RETURNING id
        """,
        {
            "public_id": new.public_id,
            "user_id": new.user_id,
            "kind": new.kind,
            "origin": new.origin,
            "priority": PRIORITY_RANK[new.request.priority],
            "timeout_s": new.request.timeout_s,
            "now": now,
            "request_hash": new.request_hash,
            "request": new.stored_request,
            "sources": new.stored_sources,
        },
    )
    return Task(
        id=task_id,
        public_id=new.public_id,
        user_id=new.user_id,
        kind=new.kind,
        origin=new.origin,
        request=new.request,
        status=TaskStatus.QUEUED,
        attempt=0,
        created_at=now,
        updated_at=now,
    )


async def get(connection: Connection, task_id: int) -> Task | None:
    """A task by its internal id."""
    row = await connection.one(TaskRow, "SELECT * FROM tasks WHERE id = :id", {"id": task_id})
    return row.to_task() if row else None


async def find(connection: Connection, public_id: str, user_id: int) -> Task | None:
    """The user's task with this public id."""
    row = await connection.one(
        TaskRow,
        "SELECT * FROM tasks WHERE public_id = :public_id AND user_id = :user_id",
        {"public_id": public_id, "user_id": user_id},
    )
    return row.to_task() if row else None


async def list_owners(connection: Connection, public_id: str, limit: int) -> Sequence[TaskOwner]:
    """Up to `limit` users who have a task with this public id."""
    return await connection.all(
        TaskOwner,
        """
        SELECT users.id, users.username FROM tasks JOIN users ON users.id = tasks.user_id
        WHERE tasks.public_id = :public_id ORDER BY users.id LIMIT :limit
        """,
        {"public_id": public_id, "limit": limit},
    )


async def get_request_hash(connection: Connection, task_id: int) -> str:
    """The hash of the task's request, to compare a repeated one with."""
    request_hash = await connection.scalar(
        "SELECT request_hash FROM tasks WHERE id = :id", {"id": task_id}
    )
    return str(request_hash)


class PageFilter(Struct, frozen=True):
    """What a list of tasks is narrowed to; None: any."""

    status: TaskStatus | None = None
    kind: str | None = None
    origin: str | None = None


async def list_page(
    connection: Connection,
    user_id: int,
    page_filter: PageFilter,
    before_id: int | None,
    limit: int,
) -> Sequence[Task]:
    """The user's tasks below `before_id`, newest first, without the large fields of requests."""
    given = {
        name: value for name, value in structs.asdict(page_filter).items() if value is not None
    }
    rows = await connection.all(
        TaskRow,
        select_page(page_filter),
        {"user_id": user_id, "before": before_id or _MAX_ID, "limit": limit} | given,
    )
    return [row.to_task() for row in rows]


def select_page(page_filter: PageFilter) -> str:
    """The statement of a page: it has the given conditions only, so that they can use an index."""
    given = [name for name, value in structs.asdict(page_filter).items() if value is not None]
    conditions = [f"AND {name} = :{name}" for name in given]
    return "\n".join((_SELECT_PAGE, *conditions, "ORDER BY id DESC LIMIT :limit"))


_SELECT_PAGE = """
SELECT id, public_id, user_id, kind, origin, request, status, attempt, created_at, updated_at,
       started_at, finished_at, deadline_at, result, failure
FROM tasks
WHERE user_id = :user_id AND id < :before
"""
