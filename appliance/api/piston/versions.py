"""Which versions a client means by a selector: 3.11.7, 3.x, ^3.1, ~3.11, >=3, *."""

import re

from appliance.errors import InvalidInput

_SELECTOR = re.compile(r"\s*(\^|~|>=|<=|>|<|=|)\s*v?([0-9x*]+(?:\.[0-9x*]+){0,2})\s*", re.I)
_WILD = frozenset("x*X")


def matches(selector: str, version: str) -> bool:
    """Whether `version` ("3.11.7") is one of those. Raises InvalidInput for no selector at all.

    A version that is no number (a shell's name) is meant by * alone, or by itself.
    """
    if selector.strip() in ("*", "x", "X", "latest", version):
        return True
    found = _SELECTOR.fullmatch(selector)
    if found is None:
        raise InvalidInput.at("version", f"{selector[:40]!r} is no version, like 3.x, ^3.1 or *")
    wanted = [int(part) for part in found[2].split(".") if not _WILD & set(part)]
    have = _numbers(version)
    return bool(have) and _holds(found[1], wanted, have)


def _holds(sign: str, wanted: list[int], have: list[int]) -> bool:
    start = have[: len(wanted)]
    return {
        "^": start >= wanted and have[:1] == wanted[:1],
        "~": start >= wanted and have[:2] == wanted[:2],
        ">=": start >= wanted,
        "<=": start <= wanted,
        ">": start > wanted,
        "<": start < wanted,
    }.get(sign, start == wanted)


def _numbers(version: str) -> list[int]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return [int(part) for part in found[0].split(".")] if found else []
