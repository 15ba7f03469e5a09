"""Names the fields of a request that were left out, in X-Ignored-Fields and in the log."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import structlog

log = structlog.get_logger()

HEADER = "X-Ignored-Fields"
_MAX_LISTED = 32
_PLAIN_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class IgnoredField(NamedTuple):
    """The place of a field that was left out, and its `type` as the client named it."""

    place: str
    type: str


def report_ignored(fields: Sequence[IgnoredField]) -> dict[str, str]:
    """Log the fields; the header that lists their places, none without fields."""
    if not fields:
        return {}
    listed = fields[:_MAX_LISTED]
    log.info(
        "fields of a request were ignored",
        count=len(fields),
        fields=[f"{each.place} ({_known_type(each.type)})" for each in listed],
    )
    places = [each.place for each in listed]
    if len(fields) > len(listed):
        places.append(f"and {len(fields) - len(listed)} more")
    return {HEADER: ", ".join(places)}


def _known_type(name: str) -> str:
    return name if _PLAIN_TYPE.fullmatch(name) else "unknown"
