"""Messages between the server and the engine of an embedding model.

Frames, `Configure`, `Ready` and `LoadFailed` are those of `messages`. Each request after
them gets one reply with its id.
"""

import socket

import msgspec
from msgspec import Struct

from plugins.providers.llama_cpp.protocol.messages import (
    HEADER_BYTES,
    FrameError,
    LoadFailed,
    Ready,
    decode_body_length,
)


class CountTexts(Struct, frozen=True, tag="count_texts"):
    """Count each text's tokens; the reply is `TextCounts`."""

    id: int
    texts: tuple[str, ...]


class EmbedTexts(Struct, frozen=True, tag="embed_texts"):
    """Compute each text's vector; the reply is `Vectors`."""

    id: int
    texts: tuple[str, ...]


class TextCounts(Struct, frozen=True, tag="text_counts"):
    id: int
    tokens: tuple[int, ...]


class Vectors(Struct, frozen=True, tag="vectors"):
    """Each vector as 32-bit floats in this machine's byte order, not normalized."""

    id: int
    vectors: tuple[bytes, ...]


class EmbeddingFailed(Struct, frozen=True, tag="failed"):
    """The texts could not be embedded; the engine goes on."""

    id: int
    reason: str


ToEmbeddingEngine = CountTexts | EmbedTexts
FromEmbeddingEngine = Ready | LoadFailed | TextCounts | Vectors | EmbeddingFailed

_to_engine: msgspec.msgpack.Decoder[ToEmbeddingEngine] = msgspec.msgpack.Decoder(ToEmbeddingEngine)
_from_engine: msgspec.msgpack.Decoder[FromEmbeddingEngine] = msgspec.msgpack.Decoder(
    FromEmbeddingEngine
)


def receive_request(connection: socket.socket) -> ToEmbeddingEngine | None:
    """The next request, or None when the server has closed. Raises FrameError or OSError."""
    header = connection.recv(HEADER_BYTES, socket.MSG_WAITALL)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        raise FrameError("the stream ended within a frame")
    length = decode_body_length(header)
    body = connection.recv(length, socket.MSG_WAITALL) if length else b""
    if len(body) < length:
        raise FrameError("the stream ended within a frame")
    try:
        return _to_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message to an embedding engine: {error}") from error


def decode_from_engine(body: bytes) -> FromEmbeddingEngine:
    """Raises FrameError if the body is not a message from an embedding engine."""
    try:
        return _from_engine.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a message from an embedding engine: {error}") from error
