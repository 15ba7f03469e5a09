"""How much room an engine gets: KV cells for all sequences, context for one.

A cell holds the attention keys and values of one token in one or more sequences.
All sequences share one pool of cells, so the pool is sized for what runs together:
either one sequence of the longest context, or all sequences as candidates of one
prompt of SHARED_PROMPT tokens with ANSWER new tokens each, whichever is more.
Without a wish of the administrator a quarter of the free memory bounds the pool.
"""

from collections.abc import Iterator, Sequence

from msgspec import Struct

SHARED_PROMPT = 1024
ANSWER = 544
DEFAULT_CONTEXT = 32768
SMALLEST = 512
LONGEST_EMBEDDED = 8192
_FLOAT_BYTES = 4
# Beside weights and cells: the program itself, and the buffers of a step.
_PROCESS_BYTES = 192 * 1024 * 1024
_MEMORY_SHARE = 4
_CELLS_STEP = 256

# A thread computes at least this many operations per second in a prompt's matrix
# products (measured: 1.1e11 on a server core), and a step should stay below half a
# second, so that cancelling takes effect and other sequences move on. The chunk
# depends on model and threads only: the same request is computed in the same pieces.
_OPERATIONS_PER_THREAD = 1e11
_STEP_SECONDS = 0.5
SMALLEST_CHUNK = 16
LARGEST_CHUNK = 256


class Room(Struct, frozen=True):
    """`cells` for all sequences together, `context_tokens` at most for one."""

    cells: int
    context_tokens: int


def choose_room(
    *, trained: int, asked: int, sequences: int, cell_bytes: int, free_bytes: int
) -> Room:
    """Room for a model trained on `trained` tokens; `asked` 0 means: choose.

    A context that was asked for is taken as it is, but never beyond what the model
    was trained on; if the memory is not there, creating the context fails.
    """
    affordable = free_bytes // _MEMORY_SHARE // max(1, cell_bytes)
    context = min(trained, asked) if asked else min(trained, DEFAULT_CONTEXT)
    least = context if asked else min(context, SMALLEST)
    together = max(context, SHARED_PROMPT + sequences * ANSWER)
    cells = _round_up(max(least, min(together, affordable)))
    return Room(cells=cells, context_tokens=min(context, cells))


def prefill_chunk(parameters: int, threads: int) -> int:
    """Prompt tokens to compute in one step: a power of two."""
    fitting = _STEP_SECONDS * threads * _OPERATIONS_PER_THREAD / (2 * max(1, parameters))
    return _power_of_two(fitting)


def measured_chunk(estimate: int, tokens_per_second: float) -> int:
    """The estimated chunk, or another where the measured speed clearly contradicts it."""
    fitting = _STEP_SECONDS * tokens_per_second
    return estimate if estimate / 2 < fitting < 4 * estimate else _power_of_two(fitting)


def _power_of_two(tokens: float) -> int:
    bounded = max(SMALLEST_CHUNK, min(LARGEST_CHUNK, int(tokens)))
    return 1 << (bounded.bit_length() - 1)


def _round_up(cells: int) -> int:
    return -(-cells // _CELLS_STEP) * _CELLS_STEP


def embedding_context(*, trained: int, asked: int, heads: int, free_bytes: int) -> int:
    """Tokens of the longest text that a model makes a vector of.

    A text is computed in one step, whose attention may need a number for each head and
    pair of tokens; a context that was asked for is taken as it is.
    """
    if asked:
        return min(trained, asked)
    context = min(trained, LONGEST_EMBEDDED)
    while context > SMALLEST and _FLOAT_BYTES * heads * context**2 > free_bytes // _MEMORY_SHARE:
        context //= 2
    return context


def packed(texts: Sequence[list[int]], tokens: int, together: int) -> Iterator[list[list[int]]]:
    """Consecutive texts in groups of at most `together` texts and `tokens` tokens."""
    group: list[list[int]] = []
    room = tokens
    for text in texts:
        if group and (len(text) > room or len(group) == together):
            yield group
            group, room = [], tokens
        group.append(text)
        room -= len(text)
    if group:
        yield group


def needed_bytes(
    *, file: int, cell_bytes: int, trained: int, asked: int, sequences: int, free_bytes: int
) -> int:
    """What a model of this file size will take of so much free memory, by estimate."""
    room = choose_room(
        trained=trained,
        asked=asked,
        sequences=sequences,
        cell_bytes=cell_bytes,
        free_bytes=max(0, free_bytes - file),
    )
    return file + room.cells * cell_bytes + _PROCESS_BYTES
