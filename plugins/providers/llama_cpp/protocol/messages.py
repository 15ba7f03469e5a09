"""What the server and an engine say to each other: msgpack frames over a Unix socket.

A frame is its length (4 bytes, big-endian) and one tagged message. The server speaks
first with `Configure`; the engine answers `Ready` or `Broken`, once.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from appliance.domain.messages import (
    CompletionRequest,
    FinishReason,
    TokenLikelihood,
    TokenUsage,
)

HEADER_BYTES = 4
MAX_FRAME_BYTES = 64 * 1024 * 1024


class Configure(Struct, frozen=True, tag="configure"):
    """What to load and how; zeros mean: choose what suits model and machine.

    `chunk` is how many prompt tokens one step computes. With `probe` threads and chunk
    are chosen by measuring, else `row_costs` are what was measured before. `memory_bytes`
    is what the model may take. `gpu_layers` -1 means all of them, where there is a GPU.
    `embeds`: the model makes vectors.
    """

    path: str
    context_tokens: int
    threads: int
    max_sequences: int
    chunk: int = 0
    probe: bool = False
    memory_bytes: int = 0
    gpu_layers: int = -1
    embeds: bool = False
    row_costs: tuple[float, ...] = ()


class Submit(Struct, frozen=True, tag="submit"):
    id: int
    request: CompletionRequest


class Count(Struct, frozen=True, tag="count"):
    """Answered with `Done`, whose usage has the prompt's tokens, without computing anything."""

    id: int
    request: CompletionRequest


class Cancel(Struct, frozen=True, tag="cancel"):
    id: int


class Ready(Struct, frozen=True, tag="ready"):
    """`cells` is the room of all sequences together, `context_tokens` that of one.

    The speeds are what the probe measured, None without one; `row_costs` the times of steps
    with more and more rows, as multiples of the time of one row. `walls` are the layers that
    confine the process, `breaches` what of them this machine could not give.
    """

    context_tokens: int
    cells: int
    max_sequences: int
    threads: int
    description: str
    chunk: int = 0
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    walls: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()
    row_costs: tuple[float, ...] = ()


class Broken(Struct, frozen=True, tag="broken"):
    """The model can't be served; the engine ends."""

    reason: str


class CallForm(StrEnum):
    """How a model writes that it wants a tool.

    TAGGED: `<tool_call>{"name", "arguments"}</tool_call>`, any number of them. LISTED:
    `[TOOL_CALLS]` and a JSON array of the same objects, or `name[ARGS]{...}` behind it.
    BARE: the answer is `{"name", "parameters"}` itself, several split by `;`. XML:
    `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.
    FENCED and PARTED: between DeepSeek's marks, `function<sep>name` and the arguments in
    a fence of Markdown, or `name<sep>{...}`.
    """

    TAGGED = "tagged"
    LISTED = "listed"
    BARE = "bare"
    XML = "xml"
    FENCED = "fenced"
    PARTED = "parted"


class Calls(Struct, frozen=True, tag="calls"):
    """Comes before the answer's text: where its tool calls are to be found in it."""

    id: int
    form: CallForm


class Text(Struct, frozen=True, tag="text"):
    """A piece of the answer; likelihoods of its tokens where they were asked for."""

    id: int
    text: str
    likelihoods: tuple[TokenLikelihood, ...] = ()


class Done(Struct, frozen=True, tag="done"):
    """`solo_tokens_per_second`: the last decode speed measured with one sequence alone.

    `stop` is the stop string that ended the answer, "" if none did.
    """

    id: int
    reason: FinishReason
    usage: TokenUsage
    solo_tokens_per_second: float | None = None
    stop: str = ""


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The last word on a request that was cancelled: what had been computed of it."""

    id: int
    usage: TokenUsage


class RefusalKind(StrEnum):
    CONTEXT = "context"
    INPUT = "input"
    FAILED = "failed"


class Refused(Struct, frozen=True, tag="refused"):
    id: int
    kind: RefusalKind
    message: str
    details: Mapping[str, Any] = {}


class Progress(Struct, frozen=True, tag="progress"):
    """The decode loop is alive; sent about once a second while it works."""

    running: int
    waiting: int
    free_cells: int


ToEngine = Configure | Submit | Count | Cancel
FromEngine = Ready | Broken | Calls | Text | Done | Cancelled | Refused | Progress

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


class FrameError(Exception):
    """The other side does not speak this protocol."""


def pack(message: ToEngine | FromEngine) -> bytes:
    """One whole frame. Raises FrameError if it would be larger than a frame may be."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes is larger than {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """The length that a header announces. Raises FrameError if no frame is that long."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes is larger than {MAX_FRAME_BYTES}")
    return length


def to_engine(body: bytes) -> ToEngine:
    """Raises FrameError if the body is no message for an engine."""
    try:
        return _to_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message for an engine: {error}") from error


def from_engine(body: bytes) -> FromEngine:
    """Raises FrameError if the body is no message of an engine."""
    try:
        return _from_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message of an engine: {error}") from error
