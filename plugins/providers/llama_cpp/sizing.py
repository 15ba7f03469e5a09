"""How much room an engine gets: KV cells for all sequences, context for one.

A cell holds the attention keys and values of one token in one or more sequences.
All sequences share one pool of cells, so the pool is sized for what runs together:
either one sequence of the longest context, or all sequences as candidates of one
prompt of SHARED_PROMPT tokens with ANSWER new tokens each, whichever is more.
Without a wish of the administrator a quarter of the free memory bounds the pool.
"""

from msgspec import Struct

SHARED_PROMPT = 1024
ANSWER = 544
DEFAULT_CONTEXT = 32768
SMALLEST = 512
_MEMORY_SHARE = 4
_CELLS_STEP = 256

# A thread computes at least this many operations per second in a prompt's matrix
# products (measured: 1.1e11 on a server core), and a step should stay below half a
# second, so that cancelling takes effect and other sequences move on. The chunk
# depends on model and threads only: the same request is computed in the same pieces.
_OPERATIONS_PER_THREAD = 1e11
_STEP_SECONDS = 0.5
_SMALLEST_CHUNK = 16
_LARGEST_CHUNK = 256


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
    bounded = max(_SMALLEST_CHUNK, min(_LARGEST_CHUNK, int(fitting)))
    return 1 << (bounded.bit_length() - 1)


def _round_up(cells: int) -> int:
    return -(-cells // _CELLS_STEP) * _CELLS_STEP
