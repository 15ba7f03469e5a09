"""Messages between the server and an engine: msgpack frames over a Unix socket.

A frame is a length (4 bytes, big-endian) and one tagged message. The server sends
`Configure` first; the engine replies `Ready` or `LoadFailed`, once. Both ends are of the
same version: the format may change freely.
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
    """What to load and how; zeros: choose what suits the model and the machine.

    `chunk` is the number of prompt tokens that one step computes. With `probe`, threads and
    chunk are chosen by measuring; else `row_costs` come from an earlier measurement.
    `memory_bytes` limits the model and its KV cache. `gpu_layers` -1: all, if there is a
    GPU. `embeds`: an embedding model.
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
    """Start a completion."""

    id: int
    request: CompletionRequest


class CountTokens(Struct, frozen=True, tag="count_tokens"):
    """Count the prompt's tokens, computing nothing: the reply is `Done` with their usage."""

    id: int
    request: CompletionRequest


class Cancel(Struct, frozen=True, tag="cancel"):
    """Stop a completion; the reply is `Cancelled`."""

    id: int


class Ready(Struct, frozen=True, tag="ready"):
    """The model is loaded.

    `kv_cells` is the size of the KV cache that all sequences share, `context_tokens` the
    limit of one sequence. The speeds are those of the probe, None without one. `row_costs`
    are the times of steps with 1, 2, … rows as multiples of the first. `note` is what a user of
    the model should know.
    `confinement_layers` are active in the process, `confinement_gaps` say what this machine
    does not support.
    """

    context_tokens: int
    kv_cells: int
    max_sequences: int
    threads: int
    note: str = ""
    chunk: int = 0
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    confinement_layers: tuple[str, ...] = ()
    confinement_gaps: tuple[str, ...] = ()
    row_costs: tuple[float, ...] = ()


class LoadFailed(Struct, frozen=True, tag="load_failed"):
    """The model could not be loaded; the engine ends."""

    reason: str


class ToolCallFormat(StrEnum):
    """How a family of models writes tool calls.

    HERMES (and Qwen): `<tool_call>{"name", "arguments"}</tool_call>`, any number of them.
    MISTRAL: `[TOOL_CALLS]` and a JSON array of such objects, or `name[ARGS]{...}`.
    LLAMA: the whole completion is `{"name", "parameters"}`, several separated by `;`.
    QWEN_XML (Qwen3-Coder):
    `<tool_call><function=name><parameter=key>value</parameter></function></tool_call>`.
    DEEPSEEK_V3 (and R1): between DeepSeek's markers, `function<sep>name` and the arguments
    in a Markdown fence. DEEPSEEK_V31: `name<sep>{...}` between the same markers.
    """

    HERMES = "hermes"
    MISTRAL = "mistral"
    LLAMA = "llama"
    QWEN_XML = "qwen_xml"
    DEEPSEEK_V3 = "deepseek_v3"
    DEEPSEEK_V31 = "deepseek_v31"


class ToolCallNotice(Struct, frozen=True, tag="tool_call_notice"):
    """Precedes the text: it may hold tool calls in this format."""

    id: int
    format: ToolCallFormat


class Text(Struct, frozen=True, tag="text"):
    """The next piece of the completion, with its tokens' likelihoods if requested.

    `prompt` is the usage of the prompt, with the first piece only.
    """

    id: int
    text: str
    likelihoods: tuple[TokenLikelihood, ...] = ()
    prompt: TokenUsage | None = None


class Done(Struct, frozen=True, tag="done"):
    """The completion has ended.

    `solo_tokens_per_second` is the latest decode speed measured with one sequence alone.
    `stop` is the stop string that ended the completion, "" if none did.
    """

    id: int
    reason: FinishReason
    usage: TokenUsage
    solo_tokens_per_second: float | None = None
    stop: str = ""


class Cancelled(Struct, frozen=True, tag="cancelled"):
    """The last message of a cancelled request: what had been computed of it."""

    id: int
    usage: TokenUsage


class RefusalKind(StrEnum):
    """CONTEXT: the prompt is too long. INPUT: invalid request. FAILED: the engine's fault."""

    CONTEXT = "context"
    INPUT = "input"
    FAILED = "failed"


class Refused(Struct, frozen=True, tag="refused"):
    """The request can't be served; nothing follows."""

    id: int
    kind: RefusalKind
    message: str
    details: Mapping[str, Any] = {}


class Progress(Struct, frozen=True, tag="progress"):
    """The decode loop is alive; sent about once a second while it has work."""

    running: int
    waiting: int
    free_cells: int


ToEngine = Configure | Submit | CountTokens | Cancel
FromEngine = Ready | LoadFailed | ToolCallNotice | Text | Done | Cancelled | Refused | Progress

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_from_engine: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(FromEngine)


class FrameError(Exception):
    """A frame is too large or holds no message of this protocol."""


class EncodingError(FrameError):
    """A value has no encoding, like an integer of more than 64 bits."""


def encode_frame(message: Struct) -> bytes:
    """One frame. Raises FrameError if the message is too large, or EncodingError."""
    try:
        body = _encoder.encode(message)
    except (OverflowError, TypeError, ValueError, RecursionError) as error:
        raise EncodingError(f"it can't be encoded: {error}") from error
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes exceeds {MAX_FRAME_BYTES} bytes")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def decode_body_length(header: bytes) -> int:
    """The body's length in a frame's header. Raises FrameError if it is too large."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES} bytes")
    return length


def decode_to_engine(body: bytes) -> ToEngine:
    """Raises FrameError if the body is not a message to an engine."""
    try:
        return _to_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message to an engine: {error}") from error


def decode_from_engine(body: bytes) -> FromEngine:
    """Raises FrameError if the body is not a message from an engine."""
    try:
        return _from_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message from an engine: {error}") from error
