"""Message format between the service and the launcher: byte strings, each after its length.

A length is 4 bytes, big-endian. A message with a wrong length is refused as a whole.
"""

import struct

MAX_MESSAGE_BYTES = 128 * 1024
"""Both sides refuse longer messages."""

_LENGTH = struct.Struct(">I")


def pack(*words: bytes) -> bytes:
    return b"".join(_LENGTH.pack(len(word)) + word for word in words)


def unpack(message: bytes) -> list[bytes]:
    """Raises ValueError if the message is malformed."""
    words: list[bytes] = []
    at = 0
    while at < len(message):
        if at + _LENGTH.size > len(message):
            raise ValueError("a message ends within a length")
        (length,) = _LENGTH.unpack_from(message, at)
        at += _LENGTH.size
        if at + length > len(message):
            raise ValueError("a message ends within a word")
        words.append(message[at : at + length])
        at += length
    return words


def encode_int(value: int) -> bytes:
    """An integer in decimal digits; int() decodes it."""
    return b"%d" % value
