"""Completions as callers ask for them, and what the box says of how it made them."""

from enum import StrEnum

from msgspec import Struct

from appliance.domain.messages import (
    Message,
    OutputFormat,
    RawPrompt,
    Sampling,
    TokenUsage,
    Tool,
    ToolChoice,
)


class Urgency(StrEnum):
    """Who is served first where the machine is busy."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class Ask(Struct, frozen=True):
    """One completion that a caller wants, by any model of the box.

    `model` is an alias, "provider/name", or None for the default. `labels` say what the
    text belongs to (a repository, a project): the administrator may bar providers by
    label. `may_cache`: an answer that is determined by the request may be an earlier one.
    """

    model: str | None
    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output: OutputFormat = OutputFormat()
    raw: RawPrompt | None = None
    context_shift: bool = False
    provider: str | None = None
    labels: tuple[str, ...] = ()
    urgency: Urgency = Urgency.INTERACTIVE
    may_cache: bool = True


class CacheStatus(StrEnum):
    """How an answer stands to the response cache; BYPASS: it is not determined, or not wanted."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


class Attempt(Struct, frozen=True):
    """One try at one provider; `error` is the stable code of how it failed, "" if it served.

    CANCELLED is one that was ended before it had begun to answer, HEDGED one that was ended
    because another model, asked beside it, was faster. Such two stand in the order asked.
    """

    provider: str
    model: str
    error: str = ""
    seconds: float = 0.0


class Report(Struct, frozen=True):
    """What happened to one completion, complete once its stream has ended.

    `cost` is in the currency of the configured prices, None where there is no price.
    `waited_s` is the time at the gate, `overhead_s` what the box itself took.
    """

    provider: str
    model: str
    attempts: tuple[Attempt, ...] = ()
    cache: CacheStatus = CacheStatus.BYPASS
    usage: TokenUsage = TokenUsage()
    cost: float | None = None
    waited_s: float = 0.0
    overhead_s: float = 0.0
