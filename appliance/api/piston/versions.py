"""Version selectors as in npm: 3.11.7, 3.x, ^3.1, ~3.11, >=3 <4, 2 || 3, *."""

import re

from appliance.errors import InvalidInput

_PART = r"(?:\d{1,9}|[x*])"
_NUMBERS = rf"{_PART}(?:\.{_PART}){{0,2}}"
_ONE = rf"(\^|~|>=|<=|>|<|=|)\s*v?({_NUMBERS})"
_COMPARATOR = re.compile(_ONE, re.I | re.A)
_ALL_OF = re.compile(rf"\s*{_ONE}(?:\s+{_ONE})*\s*", re.I | re.A)
_BETWEEN = re.compile(rf"\s*v?({_NUMBERS})\s+-\s+v?({_NUMBERS})\s*", re.I | re.A)
_WILD = frozenset("x*X")
_MAX_CHARACTERS = 100


def matches(selector: str, version: str) -> bool:
    """Whether `version` ("3.11.7") matches. Raises InvalidInput for a malformed selector.

    A version that is not a number, as of `sh`, matches * and itself only.
    """
    if selector.strip() in ("*", "x", "X", "latest", version):
        return True
    alternatives = [_comparators(selector, part) for part in selector[:_MAX_CHARACTERS].split("||")]
    actual = _numbers(version)
    return bool(actual) and any(
        all(_satisfies(operator, bound, actual) for operator, bound in comparators)
        for comparators in alternatives
    )


def _comparators(selector: str, part: str) -> list[tuple[str, list[int]]]:
    """The operators and numbers of one alternative; a version has to match each."""
    between = _BETWEEN.fullmatch(part)
    plain = f">={between[1]} <={between[2]}" if between else part
    if len(selector) > _MAX_CHARACTERS or _ALL_OF.fullmatch(plain) is None:
        raise InvalidInput.at(
            "version", f"{selector[:40]!r} is not a version such as 3.x, ^3.1 or *"
        )
    return [(operator, _known_parts(numbers)) for operator, numbers in _COMPARATOR.findall(plain)]


def _known_parts(numbers: str) -> list[int]:
    return [int(part) for part in numbers.split(".") if not _WILD & set(part)]


def _satisfies(operator: str, bound: list[int], actual: list[int]) -> bool:
    start = actual[: len(bound)]
    return {
        "^": start >= bound and actual[:1] == bound[:1],
        "~": start >= bound and start[:2] == bound[:2],
        ">=": start >= bound,
        "<=": start <= bound,
        ">": start > bound,
        "<": start < bound,
    }.get(operator, start == bound)


def _numbers(version: str) -> list[int]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in match[0].split(".")] if match else []
