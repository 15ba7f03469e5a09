"""Embeds the texts of one request: validated, counted first, in groups, scaled to length 1."""

import array
import math
from collections.abc import Iterator, Sequence
from itertools import islice

from appliance.domain.messages import EmbeddingRequest, Embeddings, TokenUsage
from appliance.errors import ContextLengthExceeded, InvalidInput, ProviderFailed
from plugins.providers.llama_cpp.supervision.embedding_connection import EmbeddingConnection

# Between two groups other requests get their turn, and a cancelled request ends.
_GROUP_TEXTS = 16
_GROUP_CHARACTERS = 200_000


def validate_embedding(request: EmbeddingRequest) -> EmbeddingRequest:
    """The request itself. Raises InvalidInput for what no model accepts."""
    if not request.texts:
        raise InvalidInput.at("input", "at least one text is required")
    if request.dimensions is not None and request.dimensions < 1:
        raise InvalidInput.at("dimensions", "must be at least 1")
    for index, text in enumerate(request.texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.at(f"input[{index}]", "must be valid Unicode text") from error
    return request


async def compute_embeddings(
    request: EmbeddingRequest, connection: EmbeddingConnection, context_tokens: int
) -> Embeddings:
    """Count all texts, then embed them. Raises EngineLostError, InvalidInput or ProviderFailed."""
    counts: list[int] = []
    for group in _group_texts(request.texts):
        counts += await connection.count_tokens(group)
    _check_lengths(counts, context_tokens)
    vectors: list[tuple[float, ...]] = []
    for group in _group_texts(request.texts):
        raw_vectors = await connection.embed(group)
        vectors += [_normalize(raw, request.dimensions) for raw in raw_vectors]
    return Embeddings(tuple(vectors), TokenUsage(prompt_tokens=sum(counts)))


def _check_lengths(counts: Sequence[int], context: int) -> None:
    for index, count in enumerate(counts):
        if count > context:
            raise ContextLengthExceeded(
                f"input[{index}] has {count} tokens; this model accepts at most {context}: "
                "split the text",
                details={
                    "field": f"input[{index}]",
                    "prompt_tokens": count,
                    "max_tokens": None,
                    "context_tokens": context,
                },
            )
        if not count:
            raise InvalidInput.at(f"input[{index}]", "must not be empty")


def _group_texts(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Consecutive texts, a few at a time."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and (len(group) == _GROUP_TEXTS or size + len(text) > _GROUP_CHARACTERS):
            yield tuple(group)
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield tuple(group)


def _normalize(raw: bytes, dimensions: int | None) -> tuple[float, ...]:
    """The vector cut to its first dimensions and scaled to length 1."""
    values = array.array("f", raw)
    if dimensions is not None and dimensions > len(values):
        raise InvalidInput.at("dimensions", f"must be at most {len(values)} for this model")
    vector = list(islice(values, dimensions))
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not length or not math.isfinite(length):
        raise ProviderFailed("the model returned a vector that is zero or not finite")
    return tuple(value / length for value in vector)
