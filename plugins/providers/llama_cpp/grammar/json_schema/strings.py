"""GBNF of a JSON schema's strings: minLength, maxLength, pattern, format."""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import Ranges, in_json
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.normalize import Schema, read_bounds
from plugins.providers.llama_cpp.grammar.regex import PatternError, pattern_of

_LEAP = r"([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29"
_DATE = (
    r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
    r"|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" + _LEAP + ")"
)
_CLOCK = r"([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = _CLOCK + r":[0-5][0-9](\.[0-9]{1,9})?(Z|[+\-]" + _CLOCK + ")"
_BYTE = r"(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9\-]{0,61}[a-zA-Z0-9])?"
_WORD = r"[a-zA-Z0-9_+\-]{1,32}"
FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "uuid": r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "hostname": rf"{_LABEL}(\.{_LABEL}){{0,7}}",
    "email": rf"{_WORD}(\.{_WORD}){{0,3}}@{_LABEL}(\.{_LABEL}){{1,7}}",
    "uri": r"[a-zA-Z][a-zA-Z0-9+.\-]{0,31}:([a-zA-Z0-9\-._~:/?#@!$&'()*+,;=]|%[0-9a-fA-F]{2}){1,}",
}


class Writing(Struct, frozen=True):
    """How texts are written: GBNF of any one character, of one of a set, and of the quotes."""

    any_one: Callable[[Rules], str]
    one_of: Callable[[Ranges], str]
    quote: str = ""


_AS_JSON = Writing(lambda _: "char", in_json, '"\\""')


def string_body(rules: Rules, schema: Schema, place: str, writing: Writing = _AS_JSON) -> str:
    """GBNF of the strings that fulfil the schema's keywords, JSON's if nothing else is told.

    Raises InvalidInput.
    """
    low, high = read_bounds(schema, "minLength", "maxLength", place)
    form, pattern = schema.get("format"), schema.get("pattern")
    if form is not None and pattern is not None:
        raise InvalidInput.at(f"{place}.pattern", "is not supported beside format")
    if form is not None:
        body = _formed(form, low, high, place, writing)
    elif pattern is not None:
        body = _matching(pattern, low, high, f"{place}.pattern", writing)
    elif writing is _AS_JSON and not low and high is None:
        return "string"
    else:
        body = rules.repeated(writing.any_one(rules), low, high)
    return f"{writing.quote} {body} {writing.quote}".strip()


def _formed(form: Any, low: int, high: int | None, place: str, writing: Writing) -> str:
    source = FORMATS.get(form) if isinstance(form, str) else None
    if source is None:
        known = ", ".join(sorted(FORMATS))
        raise InvalidInput.at(f"{place}.format", f"{form!r} is not supported; supported: {known}")
    return _matching(f"^({source})$", low, high, f"{place}.format", writing)


def _matching(source: Any, low: int, high: int | None, place: str, writing: Writing) -> str:
    if not isinstance(source, str):
        raise InvalidInput.at(place, "must be a string")
    try:
        pattern = pattern_of(source, writing.one_of)
    except PatternError as error:
        raise InvalidInput.at(place, str(error)) from error
    too_short = pattern.shortest < low
    if too_short or (high is not None and (pattern.longest is None or pattern.longest > high)):
        raise InvalidInput.at(place, "must itself keep to minLength and maxLength")
    return pattern.gbnf
