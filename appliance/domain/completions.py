"""Completions as callers request them, and reports on how they were carried out."""

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
from appliance.domain.tasks import Priority


class CompletionSpec(Struct, frozen=True):
    """A completion that a caller requests, by any model.

    `model` is an alias, "provider/name", or None for the default. `labels` say what the text
    belongs to (a repository, a project); the administrator may exclude providers by label.
    `may_cache` allows the response cache to answer a deterministic request.
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
    priority: Priority = Priority.INTERACTIVE
    may_cache: bool = True


class CacheStatus(StrEnum):
    """Result of the response cache; BYPASS: the request is not deterministic or opted out."""

    HIT = "HIT"
    MISS = "MISS"
    BYPASS = "BYPASS"


class ProviderAttempt(Struct, frozen=True):
    """One attempt at one provider; `error` is the stable error code, "" if it succeeded.

    CANCELLED: ended before the first token. HEDGED: ended because a hedging request to another
    model was faster. Hedged attempts are listed in the order in which they were started.
    """

    provider: str
    model: str
    error: str = ""
    seconds: float = 0.0


class CompletionReport(Struct, frozen=True):
    """Report on one completion, final once its stream has ended.

    Until then `usage` is that of the prompt, estimated if the provider has not counted it.

    `cost` is in the currency of the configured prices, None without a price. `waited_s` is the
    time in the admission queue, `overhead_s` the time that the gateway itself took.
    """

    provider: str
    model: str
    attempts: tuple[ProviderAttempt, ...] = ()
    cache: CacheStatus = CacheStatus.BYPASS
    usage: TokenUsage = TokenUsage()
    cost: float | None = None
    waited_s: float = 0.0
    overhead_s: float = 0.0
