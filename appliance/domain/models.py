"""Models: registered files, and models as providers offer them."""

from enum import StrEnum

from msgspec import Struct

_THOUSAND = 1000


class ModelFile(Struct, frozen=True):
    """A registered GGUF file. `path` is absolute; sizes are in bytes.

    `kv_bytes_per_token` is the size of a token in a 16-bit KV cache, 0 if unknown. `embeds` and
    `fills_in` are as in ModelInfo.
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

    @property
    def description(self) -> str:
        """Architecture, number of parameters, quantization: "llama 135M Q4_K_M"."""
        return f"{self.architecture} {format_parameters(self.parameters)} {self.quantization}"


class ModelProbe(Struct, frozen=True):
    """Measurements taken when a model was loaded, and parameters chosen from them.

    Valid for one `key`, which the provider derives from everything that the values depend on.
    `chunk` is the number of prompt tokens per step. Speeds are those of a single sequence, None
    for embedding models. `row_costs` are the times of steps with increasing numbers of rows, as
    multiples of the time of one row.
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


def format_parameters(count: int) -> str:
    """A number of parameters in the form of models' names: "135M", "1.1B"; exact if small."""
    millions = round(count / 1e6)
    if millions >= _THOUSAND:
        return f"{count / 1e9:.1f}B"
    return f"{millions}M" if millions else str(count)


class ModelState(StrEnum):
    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelInfo(Struct, frozen=True):
    """A model as a provider offers it now. `problem` says why it is not ready.

    `context_tokens` is the context length of one sequence; `decode_tokens_per_second` is the last
    measured speed of one sequence, None before the first use. `embeds`: it makes embeddings, no
    text. `fills_in`: it supports a prompt with a suffix. `layers` confine the process of a loaded
    model, `degraded` lists those that this machine lacks. `created_at` is when it was created or
    registered (epoch seconds), None if the provider doesn't say. `restartable`: it was ready
    before, and the next request starts it again.
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
    restartable: bool = False


class ProviderStatus(Struct, frozen=True):
    name: str
    available: bool
    local: bool
    problem: str = ""
