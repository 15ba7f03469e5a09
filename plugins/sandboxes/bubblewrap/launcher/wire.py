"""Messages between the service and the launcher: a few words of bytes, each with its length.

Nothing but lengths is read out of them, so that no message can do more than be refused.
"""

import struct

MOST_BYTES = 128 * 1024
"""Of one message; both sides refuse what is longer."""

_LENGTH = struct.Struct(">I")


def pack(*words: bytes) -> bytes:
    return b"".join(_LENGTH.pack(len(word)) + word for word in words)


def unpack(message: bytes) -> list[bytes]:
    """Raises ValueError if that is no series of words."""
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


def number(value: int) -> bytes:
    """How numbers travel; int() reads them again."""
    return b"%d" % value
