"""Recorded usage of completions; contains no text."""

from enum import StrEnum

from msgspec import Struct

from appliance.domain.tasks import AttemptId


class UsageKind(StrEnum):
    """Purpose of a completion."""

    CHAT = "chat"
    TASK = "task"
    EMBEDDING = "embedding"


class UsageStatus(StrEnum):
    """RESERVED while it runs; INTERRUPTED: the server stopped before the completion ended."""

    RESERVED = "reserved"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class UsageRecord(Struct, frozen=True):
    """One completion. Costs are in the currency of the configured prices, None without one.

    `exact` says that the provider counted the tokens; otherwise they are an estimate.
    `started_at` is in epoch seconds, `seconds` is None while it runs. `key` identifies the
    record; that of a task's completion follows from `task_id`, `attempt` and `call`, which are
    None for others. `owner` is the server that runs it.
    """

    key: str
    user_id: int | None
    key_id: int | None
    kind: UsageKind
    provider: str
    model: str
    status: UsageStatus
    started_at: float
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    exact: bool = False
    reserved_cost: float | None = None
    cost: float | None = None
    seconds: float | None = None
    task_id: int | None = None
    attempt: int | None = None
    call: int | None = None
    owner: str | None = None


class TaskCalls:
    """Numbers the completions of one attempt at a task from 1: there is one of it per attempt."""

    def __init__(self, attempt_id: AttemptId) -> None:
        self.attempt_id = attempt_id
        self._last = 0

    def next_number(self) -> int:
        self._last += 1
        return self._last
