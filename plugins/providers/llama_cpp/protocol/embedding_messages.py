"""What the server and an engine that makes vectors say to each other.

The frames, `Configure`, `Ready` and `Broken` are those of `protocol`; what comes after
them is answered one by one, each answer with the number of its question.
"""

import socket

import msgspec
from msgspec import Struct

from plugins.providers.llama_cpp.protocol.messages import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    Broken,
    FrameError,
    Ready,
    body_length,
)


class Measure(Struct, frozen=True, tag="measure"):
    """Count each text's tokens, computing nothing."""

    id: int
    texts: tuple[str, ...]


class Embed(Struct, frozen=True, tag="embed"):
    id: int
    texts: tuple[str, ...]


class Counts(Struct, frozen=True, tag="counts"):
    id: int
    tokens: tuple[int, ...]


class Vectors(Struct, frozen=True, tag="vectors"):
    """Each vector as 32-bit floats of this machine's byte order, not normalised."""

    id: int
    vectors: tuple[bytes, ...]


class Failed(Struct, frozen=True, tag="failed"):
    """The texts could not be computed; the engine goes on."""

    id: int
    reason: str


ToVectorEngine = Measure | Embed
FromVectorEngine = Ready | Broken | Counts | Vectors | Failed

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToVectorEngine] = msgspec.msgpack.Decoder(ToVectorEngine)
_from_engine: msgspec.msgpack.Decoder[FromVectorEngine] = msgspec.msgpack.Decoder(FromVectorEngine)


def pack(message: ToVectorEngine | FromVectorEngine) -> bytes:
    """One whole frame. Raises FrameError if it would be larger than a frame may be."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise FrameError(f"a message of {len(body)} bytes is larger than {MAX_FRAME_BYTES}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def receive(connection: socket.socket) -> ToVectorEngine | None:
    """The next question, or None when the server has closed. Raises FrameError or OSError."""
    header = connection.recv(HEADER_BYTES, socket.MSG_WAITALL)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise FrameError("the stream ended within a frame")
    length = body_length(header)
    body = connection.recv(length, socket.MSG_WAITALL) if length else b""
    if len(body) < length:
        raise FrameError("the stream ended within a frame")
    try:
        return _to_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message for an engine of vectors: {error}") from error


def from_engine(body: bytes) -> FromVectorEngine:
    """Raises FrameError if the body is no message of an engine that makes vectors."""
    try:
        return _from_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message of an engine of vectors: {error}") from error
