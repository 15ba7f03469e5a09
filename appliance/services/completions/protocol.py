"""Chats and raw completions: asked for, waited for, counted; no durable task.

This file holds what the dialects rely on.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from appliance.domain.completions import Ask, Report
from appliance.domain.messages import CompletionEvent, EmbeddingRequest, Embeddings
from appliance.domain.users import Principal


class Completion(Protocol):
    """One running completion. Iterate it once; close it in every case.

    `report` grows while it runs. Closing it early ends the generation at once and
    settles what was used.
    """

    @property
    def report(self) -> Report: ...

    def __aiter__(self) -> AsyncIterator[CompletionEvent]: ...

    async def aclose(self) -> None: ...


class Completions(Protocol):
    """What the wire formats call."""

    async def start(self, principal: Principal, ask: Ask, choices: int = 1) -> Sequence[Completion]:
        """Begin `choices` completions of the same ask, each with a seed of its own.

        Returns when each has its first event or has failed, so that a failure before the
        first token is still an error of the request: raises Forbidden, InvalidInput,
        UnknownModel, ContextLengthExceeded, QueueFull, RateLimited, ModelUnavailable,
        ProviderFailed, DeadlineExceeded. A later failure is raised by the iteration.
        Cancelling the call ends everything.
        """
        ...

    async def count_tokens(self, principal: Principal, ask: Ask) -> int:
        """The exact prompt tokens of this ask, template and tools included."""
        ...

    async def embed(self, principal: Principal, request: EmbeddingRequest) -> Embeddings:
        """Vectors; `request.model` is an alias or "provider/name". Raises as `start` does."""
        ...
