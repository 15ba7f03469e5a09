"""Which versions a client means by a selector: 3.11.7, 3.x, ^3.1, ~3.11, >=3 <4, 2 || 3, *."""

import re

from appliance.errors import InvalidInput

_PART = r"(?:\d{1,9}|[x*])"
_NUMBERS = rf"{_PART}(?:\.{_PART}){{0,2}}"
_ONE = rf"(\^|~|>=|<=|>|<|=|)\s*v?({_NUMBERS})"
_COMPARATOR = re.compile(_ONE, re.I | re.A)
_ALL_OF = re.compile(rf"\s*{_ONE}(?:\s+{_ONE})*\s*", re.I | re.A)
_BETWEEN = re.compile(rf"\s*v?({_NUMBERS})\s+-\s+v?({_NUMBERS})\s*", re.I | re.A)
_WILD = frozenset("x*X")
_LONGEST = 100


def matches(selector: str, version: str) -> bool:
    """Whether `version` ("3.11.7") is one of those. Raises InvalidInput for no selector at all.

    A version that is no number (a shell's name) is meant by * alone, or by itself.
    """
    if selector.strip() in ("*", "x", "X", "latest", version):
        return True
    alternatives = [_comparators(selector, part) for part in selector[:_LONGEST].split("||")]
    have = _numbers(version)
    return bool(have) and any(
        all(_holds(sign, wanted, have) for sign, wanted in comparators)
        for comparators in alternatives
    )


def _comparators(selector: str, part: str) -> list[tuple[str, list[int]]]:
    """The signs and numbers that a version has to meet, all of them."""
    between = _BETWEEN.fullmatch(part)
    plain = f">={between[1]} <={between[2]}" if between else part
    if len(selector) > _LONGEST or _ALL_OF.fullmatch(plain) is None:
        raise InvalidInput.at("version", f"{selector[:40]!r} is no version, like 3.x, ^3.1 or *")
    return [(sign, _given(numbers)) for sign, numbers in _COMPARATOR.findall(plain)]


def _given(numbers: str) -> list[int]:
    return [int(part) for part in numbers.split(".") if not _WILD & set(part)]


def _holds(sign: str, wanted: list[int], have: list[int]) -> bool:
    start = have[: len(wanted)]
    return {
        "^": start >= wanted and have[:1] == wanted[:1],
        "~": start >= wanted and start[:2] == wanted[:2],
        ">=": start >= wanted,
        "<=": start <= wanted,
        ">": start > wanted,
        "<": start < wanted,
    }.get(sign, start == wanted)


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []
