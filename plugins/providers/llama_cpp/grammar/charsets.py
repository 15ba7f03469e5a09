"""Sets of characters, and their GBNF inside and outside of JSON strings."""

from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]
"""Sorted, apart from each other, both ends included."""

EVERYTHING: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
_PLAIN: Ranges = ((0x20, 0x21), (0x23, 0x5B), (0x5D, 0xD7FF), (0xE000, 0x10FFFF))
_ESCAPED = {'"': '"', "\\": "\\", "\n": "n", "\t": "t", "\r": "r", "\b": "b", "\f": "f"}
_CONTROL = 0x20
_SHORT = 0xFFFF


def union(parts: Iterable[tuple[int, int]]) -> Ranges:
    """One set of all the ranges."""
    found: list[tuple[int, int]] = []
    for low, high in sorted(parts):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def minus(left: Ranges, right: Ranges) -> Ranges:
    """What is in the first and not in the second."""
    found: list[tuple[int, int]] = []
    for low, high in left:
        at = low
        for start, end in right:
            if end < at or start > high:
                continue
            if start > at:
                found.append((at, start - 1))
            at = end + 1
        if at <= high:
            found.append((at, high))
    return tuple(found)


def common(left: Ranges, right: Ranges) -> Ranges:
    return minus(left, minus(left, right))


def in_json(characters: Ranges) -> str:
    """GBNF for one of these characters within a JSON string, escaped where JSON asks for it.

    Empty if JSON has no short way to write any of them.
    """
    plain = common(characters, _PLAIN)
    ways = [char_class(plain)] if plain else []
    for char, name in _ESCAPED.items():
        if _holds(characters, ord(char)):
            ways.append(f'"\\\\{_in_literal(name)}"')
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})" if ways else ""


def plain_class(characters: Ranges) -> str:
    """GBNF class of those that JSON writes as they are; empty if there are none."""
    plain = common(characters, _PLAIN)
    return char_class(plain) if plain else ""


def char_class(ranges: Ranges) -> str:
    """A GBNF class of exactly these characters."""
    parts = (code(low) if low == high else f"{code(low)}-{code(high)}" for low, high in ranges)
    return f"[{''.join(parts)}]"


def code(point: int) -> str:
    """A character as GBNF writes it anywhere."""
    char = chr(point)
    if char.isascii() and char.isalnum():
        return char
    return f"\\u{point:04X}" if point <= _SHORT else f"\\U{point:08X}"


def literal(text: str) -> str:
    """GBNF of exactly this text."""
    return '"' + "".join(_in_literal(char) for char in text) + '"'


def _in_literal(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    return char if char.isprintable() and ord(char) >= _CONTROL else code(ord(char))


def _holds(ranges: Ranges, point: int) -> bool:
    return any(low <= point <= high for low, high in ranges)
