"""Embeddings for whoever asks: in small groups, counted first, of length 1."""

import array
import math
from collections.abc import Iterator, Sequence
from itertools import islice

from appliance.domain.messages import EmbeddingRequest, Embeddings, TokenUsage
from appliance.errors import ContextLengthExceeded, InvalidInput, ProviderFailed
from plugins.providers.llama_cpp.supervision.embedding_connection import VectorLink

# Between two groups others have their turn, and a request that was given up ends.
_GROUP_TEXTS = 16
_GROUP_CHARACTERS = 200_000


def checked(request: EmbeddingRequest) -> EmbeddingRequest:
    """The request itself. Raises InvalidInput for what no model can take."""
    if not request.texts:
        raise InvalidInput.at("input", "at least one text is needed")
    if request.dimensions is not None and request.dimensions < 1:
        raise InvalidInput.at("dimensions", "must be at least 1")
    for number, text in enumerate(request.texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.at(f"input[{number}]", "must be valid Unicode text") from error
    return request


async def embed(request: EmbeddingRequest, link: VectorLink, context_tokens: int) -> Embeddings:
    """Count everything, then compute. Raises LinkError, InvalidInput or ProviderFailed."""
    counts: list[int] = []
    for group in _groups(request.texts):
        counts += await link.counts(group)
    _check_lengths(counts, context_tokens)
    vectors: list[tuple[float, ...]] = []
    for group in _groups(request.texts):
        found = await link.vectors(group)
        vectors += [_normalised(raw, request.dimensions) for raw in found]
    return Embeddings(tuple(vectors), TokenUsage(prompt_tokens=sum(counts)))


def _check_lengths(counts: Sequence[int], room: int) -> None:
    for number, count in enumerate(counts):
        if count > room:
            raise ContextLengthExceeded(
                f"input[{number}] has {count} tokens; this model reads up to {room}: "
                "split the text",
                details={"prompt_tokens": count, "max_tokens": None, "context_tokens": room},
            )
        if not count:
            raise InvalidInput.at(f"input[{number}]", "must not be empty")


def _groups(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Consecutive texts, a few at a time."""
    left = iter(texts)
    group: list[str] = []
    size = 0
    for text in left:
        if group and (len(group) == _GROUP_TEXTS or size + len(text) > _GROUP_CHARACTERS):
            yield tuple(group)
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield tuple(group)


def _normalised(raw: bytes, dimensions: int | None) -> tuple[float, ...]:
    """The vector cut to its first dimensions, of length 1."""
    values = array.array("f", raw)
    if dimensions is not None and dimensions > len(values):
        raise InvalidInput.at("dimensions", f"this model's vectors have {len(values)}")
    cut = list(islice(values, dimensions))
    length = math.sqrt(math.fsum(value * value for value in cut))
    if not length or not math.isfinite(length):
        raise ProviderFailed("the model made a vector without direction for one of the texts")
    return tuple(value / length for value in cut)
