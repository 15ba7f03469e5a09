"""Sizes of the KV cache (cells for all sequences), the context of one, and the prefill chunk.

A cell holds the attention keys and values of one token in one or more sequences. All sequences
share one pool of cells, so the pool is sized for what runs together: one sequence of the longest
context, or all sequences as candidates of one prompt of SHARED_PROMPT tokens with ANSWER new
tokens each, whichever is more. Unless the administrator sets the context, a quarter of the free
memory bounds the pool.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

SHARED_PROMPT = 1024
ANSWER = 544
DEFAULT_CONTEXT = 32768
SMALLEST_CONTEXT = 512
LONGEST_EMBEDDED_TEXT = 8192
_FLOAT_BYTES = 4
# Besides weights and cells: the program itself and the buffers of a step.
_PROCESS_BYTES = 192 * 1024 * 1024
_MEMORY_DIVISOR = 4
_CELLS_STEP = 256

# A thread computes at least this many operations per second in the matrix products of a prompt
# (measured: 1.1e11 on a server core). A step should stay below half a second, so that cancelling
# takes effect and other sequences advance. The chunk depends on model and threads only, so that
# the same request is computed in the same pieces.
_OPERATIONS_PER_THREAD = 1e11
_STEP_SECONDS = 0.5
SMALLEST_CHUNK = 16
LARGEST_CHUNK = 256


class KvCacheSize(Struct, frozen=True):
    """`cells` are for all sequences together, `context_tokens` for one."""

    cells: int
    context_tokens: int


def choose_kv_cache_size(
    *,
    training_context: int,
    requested_context: int,
    sequences: int,
    cell_bytes: int,
    free_bytes: int,
) -> KvCacheSize:
    """The size for a model trained on contexts of `training_context` tokens.

    A requested context is used as it is, up to the training context; if memory does not suffice,
    creating the context fails. 0 means: choose by the free memory.
    """
    affordable = free_bytes // _MEMORY_DIVISOR // max(1, cell_bytes)
    context = min(training_context, requested_context or DEFAULT_CONTEXT)
    least = context if requested_context else min(context, SMALLEST_CONTEXT)
    together = max(context, SHARED_PROMPT + sequences * ANSWER)
    cells = _round_up(max(least, min(together, affordable)))
    return KvCacheSize(cells=cells, context_tokens=min(context, cells))


def estimate_chunk(parameters: int, threads: int) -> int:
    """Prefill tokens per step: a power of two."""
    tokens = _STEP_SECONDS * threads * _OPERATIONS_PER_THREAD / (2 * max(1, parameters))
    return _round_to_power_of_two(tokens)


def correct_chunk(estimate: int, tokens_per_second: float) -> int:
    """The estimate, or another chunk if the measured speed clearly contradicts it."""
    tokens = _STEP_SECONDS * tokens_per_second
    if estimate / 2 < tokens < 4 * estimate:
        return estimate
    return _round_to_power_of_two(tokens)


def _round_to_power_of_two(tokens: float) -> int:
    bounded = max(SMALLEST_CHUNK, min(LARGEST_CHUNK, int(tokens)))
    return 1 << (bounded.bit_length() - 1)


def _round_up(cells: int) -> int:
    return -(-cells // _CELLS_STEP) * _CELLS_STEP


def choose_embedding_context(
    *, training_context: int, requested_context: int, heads: int, free_bytes: int
) -> int:
    """Tokens of the longest text that can be embedded.

    A text is computed in one step, whose attention may need a number for each head and pair of
    tokens. A requested context is used as it is, up to the training context.
    """
    if requested_context:
        return min(training_context, requested_context)
    context = min(training_context, LONGEST_EMBEDDED_TEXT)
    while (
        context > SMALLEST_CONTEXT
        and _FLOAT_BYTES * heads * context**2 > free_bytes // _MEMORY_DIVISOR
    ):
        context //= 2
    return context


def group_texts(
    texts: Sequence[list[int]], max_tokens: int, max_texts: int
) -> Iterator[list[list[int]]]:
    """Consecutive texts in groups of at most `max_texts` texts and `max_tokens` tokens."""
    group: list[list[int]] = []
    space = max_tokens
    for text in texts:
        if group and (len(text) > space or len(group) == max_texts):
            yield group
            group, space = [], max_tokens
        group.append(text)
        space -= len(text)
    if group:
        yield group


def estimate_memory_bytes(
    *,
    file: int,
    cell_bytes: int,
    training_context: int,
    requested_context: int,
    sequences: int,
    free_bytes: int,
) -> int:
    """Estimated memory of an engine with a model file of this size."""
    size = choose_kv_cache_size(
        training_context=training_context,
        requested_context=requested_context,
        sequences=sequences,
        cell_bytes=cell_bytes,
        free_bytes=max(0, free_bytes - file),
    )
    return file + size.cells * cell_bytes + _PROCESS_BYTES
