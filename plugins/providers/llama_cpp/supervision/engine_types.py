"""Types shared by the supervisor, the engine pool, the memory budget and the load profiles."""

from msgspec import Struct

from appliance.domain.models import ModelFile
from appliance.errors import ModelUnavailable
from plugins.providers.llama_cpp.protocol.messages import Ready


class EngineLostError(Exception):
    """The engine process ended while it was needed.

    `deliberate`: the server ended it, or did not start it. `stalled`: it was ended because it
    made no progress. In neither case is a request that it had tried again.
    """

    def __init__(self, reason: str, *, deliberate: bool = False, stalled: bool = False) -> None:
        super().__init__(reason)
        self.deliberate, self.stalled = deliberate, stalled

    @property
    def retryable(self) -> bool:
        return not (self.deliberate or self.stalled)


class InsufficientMemory(ModelUnavailable):
    """A model does not fit beside the engines in use. `details`: {needed_bytes, free_bytes}."""


class MemoryReservation(Struct, frozen=True):
    """Memory for one engine: the most it may use, and what the budget sets aside for it."""

    usable_bytes: int
    reserved_bytes: int


class LoadResult(Struct, frozen=True):
    """A successful load: what the engine reported, the memory it took, and how long."""

    file: ModelFile
    ready: Ready
    memory_bytes: int
    seconds: float
