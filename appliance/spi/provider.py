"""The interface of a model provider."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    TokenUsage,
)
from appliance.domain.models import ModelInfo, ProviderStatus


@runtime_checkable
class MeteredStream(Protocol):
    """A stream that measures its usage even if it is closed early."""

    @property
    def usage(self) -> TokenUsage | None:
        """Exact once the stream is closed; None if unknown."""
        ...

    @property
    def prompt_usage(self) -> TokenUsage | None:
        """The prompt's tokens, from the first event on; None if unknown."""
        ...


@runtime_checkable
class Provider(Protocol):
    """A local or remote source of models.

    All methods are called from one event loop, any number of them concurrently.
    """

    @property
    def name(self) -> str:
        """The plugin's name, as clients see it: "llama_cpp", "openai"."""
        ...

    def status(self) -> ProviderStatus:
        """Whether the provider can serve now; cheap, no I/O."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """The models with their state; does not load any."""
        ...

    async def load(self, model: str) -> None:
        """Load a model; returns when it is ready.

        Raises UnknownModel, or ModelUnavailable with the reason.
        """
        ...

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The exact number of prompt tokens of this request; loads the model if needed.

        If a remote provider's API cannot count, the result is an upper bound.
        """
        ...

    def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        """Run one completion; loads the model if needed.

        Yields text deltas and tool calls, then one Finished. Closing the iterator (aclose, or
        cancelling the task that reads it) ends the generation at once; a MeteredStream then
        has the usage, which is estimated otherwise.
        Raises UnknownModel, ContextLengthExceeded (before anything runs),
        ModelUnavailable, QueueFull or ProviderFailed; a ProviderFailed with `stalled` in its
        details if it may have made the provider hang, so that it is not tried anywhere else.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Embeddings of texts; loads the model if needed.

        Raises InvalidInput for a model without embeddings, and what `stream` raises.
        """
        ...

    async def close(self) -> None:
        """Release all resources; streams still open fail with ProviderFailed."""
        ...
