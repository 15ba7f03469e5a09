"""Recorded usage of completions; contains no text."""

from enum import StrEnum

from msgspec import Struct


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
    `started_at` is in epoch seconds, `seconds` is None while it runs.
    """

    id: int
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
