"""The events of a user's feed: of all tasks of the user, and of no task."""

from enum import StrEnum
from typing import Any

from msgspec import Struct

from appliance.domain.tasks import TaskEvent


class UserEventKind(StrEnum):
    """Events of no task.

    TASK_DELETED {task_id}   the user deleted a task; `task_id` is its public id
    """

    TASK_DELETED = "task_deleted"


class UserEvent(Struct, frozen=True):
    """One event of a user's feed.

    `seq` grows by 1 with each event of the user; a number is missing where its event was
    deleted. An event of a task has its kind there, the task's ids, and its `task_seq` in the
    task's journal; an event of no task has a UserEventKind.
    """

    user_id: int
    seq: int
    at: float
    kind: str
    data: dict[str, Any]
    task_id: int | None = None
    task_public_id: str | None = None
    task_seq: int | None = None

    def task_event(self) -> TaskEvent | None:
        """The same event as a line of its task's journal; None for an event of no task."""
        if self.task_id is None or self.task_seq is None:
            return None
        return TaskEvent(self.task_id, self.task_seq, self.at, self.kind, self.data)
