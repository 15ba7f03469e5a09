"""Models: the files that the box owns, and what providers offer of them."""

from enum import StrEnum

from msgspec import Struct


class ModelFile(Struct, frozen=True):
    """A GGUF file registered on this box. `path` is absolute; sizes are in bytes.

    `kv_bytes_per_token` is what a token takes in a 16-bit cache, 0 if unknown. `embeds`
    and `fills_in` as in ModelInfo.
    """

    alias: str
    path: str
    sha256: str
    size: int
    architecture: str
    parameters: int
    context_tokens: int
    quantization: str
    source: str
    is_default: bool
    created_at: float
    kv_bytes_per_token: int = 0
    embeds: bool = False
    fills_in: bool = False


class ModelProbe(Struct, frozen=True):
    """What was measured when a model was loaded on this machine, and chosen by it.

    It holds for one `key` only, which its provider makes out of all that it depends on.
    `chunk` is how many prompt tokens one step computes. The speeds are those of one
    sequence alone, None where the model writes no text. `row_costs` are the times of steps
    with more and more rows, as multiples of the time of one row.
    """

    key: str
    threads: int
    chunk: int
    prefill_tokens_per_second: float | None
    decode_tokens_per_second: float | None
    memory_bytes: int
    load_seconds: float
    measured_at: float
    row_costs: tuple[float, ...] = ()


class ModelState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelInfo(Struct, frozen=True):
    """A model as a provider offers it now. `problem` says why it is not ready.

    `context_tokens` is the room of one sequence; `decode_tokens_per_second` is what
    this machine was last seen to reach with one sequence, None before the first use.
    `embeds` says that it makes vectors instead of text, `fills_in` that it can fill a
    gap between a prompt and a suffix. `layers` confine the process that holds a loaded
    model, `degraded` says what of them this machine could not give. `created_at` is when it
    was made, or registered here (epoch seconds); None where the provider does not say.
    """

    name: str
    provider: str
    state: ModelState
    context_tokens: int | None = None
    max_parallel: int = 1
    decode_tokens_per_second: float | None = None
    is_default: bool = False
    description: str = ""
    problem: str = ""
    prefill_tokens_per_second: float | None = None
    memory_bytes: int | None = None
    embeds: bool = False
    fills_in: bool = False
    layers: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    created_at: float | None = None


class ProviderStatus(Struct, frozen=True):
    name: str
    available: bool
    local: bool
    problem: str = ""
