"""What a model provider implements."""

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
    """A stream of a provider that counts what it used also where it was ended early."""

    @property
    def usage(self) -> TokenUsage | None:
        """Exact once the stream is closed; None where it is not known."""
        ...


class Provider(Protocol):
    """A source of completions, local or far.

    Every method may be called from one event loop only, any number at a time.
    """

    @property
    def name(self) -> str:
        """The plugin's name, as clients see it: "llama_cpp", "openai"."""
        ...

    def status(self) -> ProviderStatus:
        """Whether the provider can serve now; cheap, no I/O."""
        ...

    async def models(self) -> Sequence[ModelInfo]:
        """What it offers, with each model's state; does not load anything."""
        ...

    async def load(self, model: str) -> None:
        """Make a model ready to serve, and return when it is.

        Raises UnknownModel, or ModelUnavailable with the reason.
        """
        ...

    async def count_tokens(self, request: CompletionRequest) -> int:
        """The exact number of prompt tokens of this request, loading the model if need be.

        A far provider counts in its own way. Where its API has no way to ask, this is an
        upper bound, never less than the true count.
        """
        ...

    def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        """Run one completion; loads the model if need be.

        Yields text deltas and tool calls, then one Finished. Closing the iterator
        (aclose, or cancelling the task that reads it) ends the generation at once; a
        MeteredStream then tells what it used, else the box estimates it.
        Raises UnknownModel, ContextLengthExceeded (before anything runs),
        ModelUnavailable, QueueFull or ProviderFailed.
        """
        ...

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Vectors for texts; loads the model if need be.

        Raises InvalidInput for a model that makes none, and what `stream` raises.
        """
        ...

    async def close(self) -> None:
        """End everything that it owns; streams still open fail with ProviderFailed."""
        ...
