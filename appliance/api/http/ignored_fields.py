"""Names the fields of a request that were left out, in X-Ignored-Fields and in the log."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from typing import Any, NamedTuple, get_args, get_origin

import msgspec
import structlog
from litestar import Request
from msgspec import Raw, Struct, structs

log = structlog.get_logger()

HEADER = "X-Ignored-Fields"
_MAX_LISTED = 32
_MAX_FOUND = 1000
_PLAIN_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,60}")
_objects = msgspec.json.Decoder(dict[str, Raw])
_arrays = msgspec.json.Decoder(list[Raw])


class IgnoredField(NamedTuple):
    """The place of a field that was left out, and its `type` as the client named it."""

    place: str
    type: str


async def find_unknown_fields(
    request: Request[Any, Any, Any], kind: type[Struct]
) -> list[IgnoredField]:
    """The fields of a JSON body that `kind` and the structs in it do not have; none of a form."""
    body = await request.body()
    return [IgnoredField(place, "field") for place in islice(_unknown(body, kind, ""), _MAX_FOUND)]


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


def _unknown(body: bytes | Raw, kind: type[Struct], place: str) -> Iterator[str]:
    """The places of the unknown fields of an object; values are skipped, not decoded."""
    try:
        fields = _objects.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return  # no object
    known = _inner_structs(kind)
    for name, value in fields.items():
        shown = name if _PLAIN_TYPE.fullmatch(name) else "?"
        at = f"{place}.{shown}".lstrip(".")
        if name not in known:
            yield at
        for inner, repeated in known.get(name, ()):
            if not repeated:
                yield from _unknown(value, inner, at)
                continue
            for index, item in enumerate(_split(value)):
                yield from _unknown(item, inner, f"{at}[{index}]")


def _split(value: Raw) -> list[Raw]:
    """The items of an array; none if it is something else."""
    try:
        return _arrays.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return []


@cache
def _inner_structs(kind: type[Struct]) -> Mapping[str, Sequence[tuple[type[Struct], bool]]]:
    """The fields of `kind`, each with the structs that it can hold, and whether in an array."""
    return {
        field.encode_name: tuple(_find_structs(field.type, repeated=False))
        for field in structs.fields(kind)
    }


def _find_structs(annotation: Any, *, repeated: bool) -> Iterator[tuple[type[Struct], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        yield annotation, repeated
    for inner in get_args(annotation):
        yield from _find_structs(inner, repeated=repeated or get_origin(annotation) is list)


def _known_type(name: str) -> str:
    return name if _PLAIN_TYPE.fullmatch(name) else "unknown"
