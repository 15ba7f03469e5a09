"""The table `tasks`: requests and results. Queue operations are in task_queue."""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from appliance.domain.tasks import Priority, SourceFile, Task, TaskRequest, TaskStatus
from appliance.store import documents
from appliance.store.database import Connection, Transaction

_MAX_ID = 2**63 - 1
PRIORITY_RANK = {Priority.INTERACTIVE: 0, Priority.NORMAL: 1, Priority.BATCH: 2}


class NewTask(Struct, frozen=True):
    """The values of a new task. `request_hash` identifies the request's content.

    `stored_request` and `stored_sources` are the request as the table holds it.
    """

    public_id: str
    user_id: int
    request: TaskRequest
    request_hash: str
    stored_request: str | bytes
    stored_sources: str | bytes


class TaskOwner(Struct, frozen=True):
    """A user who has a task."""

    id: int
    username: str


class _Sources(Struct, frozen=True):
    """The caller's files, in a column of their own, so that lists do not load them."""

    files: tuple[SourceFile, ...] = ()
    tests: tuple[SourceFile, ...] = ()


class StoredTask(Task, frozen=True):
    """A whole row, for statements that select or return `*`."""

    sources: _Sources = _Sources()

    def to_task(self) -> Task:
        fields = {name: getattr(self, name) for name in Task.__struct_fields__}
        fields["request"] = msgspec.structs.replace(
            self.request, files=self.sources.files, tests=self.sources.tests
        )
        return Task(**fields)


def prepare(public_id: str, user_id: int, request: TaskRequest, request_hash: str) -> NewTask:
    """Encode a new task. Call it in a thread: a large request takes long."""
    return NewTask(
        public_id=public_id,
        user_id=user_id,
        request=request,
        request_hash=request_hash,
        stored_request=documents.encode(msgspec.structs.replace(request, files=(), tests=())),
        stored_sources=documents.encode(_Sources(request.files, request.tests)),
    )


async def insert(tx: Transaction, new: NewTask, now: float) -> Task:
    """Insert a queued task and return it. Its id was never used before, see `deleted_tasks`."""
    task_id = await tx.scalar(
        """
        INSERT INTO tasks (id, public_id, user_id, priority, timeout_s, created_at, updated_at,
                           request_hash, request, sources)
        VALUES ((SELECT MAX(used.id) + 1
                 FROM (SELECT last_id AS id FROM deleted_tasks
                       UNION ALL SELECT MAX(id) FROM tasks) AS used),
                :public_id, :user_id, :priority, :timeout_s, :now, :now,
                :request_hash, :request, :sources)
        RETURNING id
        """,
        {
            "public_id": new.public_id,
            "user_id": new.user_id,
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
        request=new.request,
        status=TaskStatus.QUEUED,
        attempt=0,
        created_at=now,
        updated_at=now,
    )


async def get(connection: Connection, task_id: int) -> Task | None:
    """A task by its internal id."""
    row = await connection.one(StoredTask, "SELECT * FROM tasks WHERE id = :id", {"id": task_id})
    return row.to_task() if row else None


async def find(connection: Connection, public_id: str, user_id: int) -> Task | None:
    """The user's task with this public id."""
    row = await connection.one(
        StoredTask,
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


async def list_page(
    connection: Connection,
    user_id: int,
    status: TaskStatus | None,
    before_id: int | None,
    limit: int,
) -> Sequence[Task]:
    """The user's tasks below `before_id`, newest first, without the callers' files and tests."""
    return await connection.all(
        Task,
        SELECT_PAGE_BY_STATUS if status else SELECT_PAGE,
        {"user_id": user_id, "status": status, "before": before_id or _MAX_ID, "limit": limit},
    )


SELECT_PAGE = """
SELECT id, public_id, user_id, request, status, attempt, created_at, updated_at,
       started_at, finished_at, deadline_at, result, failure
FROM tasks
WHERE user_id = :user_id AND id < :before
ORDER BY id DESC LIMIT :limit
"""
SELECT_PAGE_BY_STATUS = """
SELECT id, public_id, user_id, request, status, attempt, created_at, updated_at,
       started_at, finished_at, deadline_at, result, failure
FROM tasks
WHERE user_id = :user_id AND status = :status AND id < :before
ORDER BY id DESC LIMIT :limit
"""
