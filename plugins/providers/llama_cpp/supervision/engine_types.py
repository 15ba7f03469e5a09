"""What an engine's supervisor and those around it tell each other."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from msgspec import Struct

from appliance.domain.models import ModelFile
from appliance.errors import ModelUnavailable
from plugins.providers.llama_cpp.protocol.messages import Broken, Configure, Ready
from plugins.providers.llama_cpp.supervision.load_profiles import Records


class Wire(Protocol):
    """A connection to an engine, whatever is said over it."""

    @property
    def speed(self) -> float | None: ...

    @property
    def silence_s(self) -> float: ...

    async def configure(self, configure: Configure) -> Ready | Broken: ...

    async def read(self) -> None: ...

    def fail(self, error: Exception) -> None: ...


WireT = TypeVar("WireT", bound=Wire)


class House(Struct, frozen=True):
    """What an engine's supervisor needs of the others.

    `make_room(file)` returns how many bytes the model may take and how many are set
    aside for it, or raises NoRoom. `on_ready` is told of each load.
    """

    records: Records
    make_room: Callable[[ModelFile], Awaitable["Claim"]]
    on_ready: Callable[["Loaded"], None]


class NoRoom(ModelUnavailable):
    """A model does not fit beside those at work. `details`: {needed_bytes, free_bytes}."""


class Claim(Struct, frozen=True):
    """Memory for one model in bytes: what it may take, and what is set aside for it."""

    granted: int
    reserved: int


class Loaded(Struct, frozen=True):
    """A load that succeeded: what the engine says, the memory that it took, and how long."""

    file: ModelFile
    ready: Ready
    memory_bytes: int
    seconds: float
