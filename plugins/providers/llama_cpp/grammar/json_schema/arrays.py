"""GBNF of a JSON schema's arrays: items, prefixItems, minItems, maxItems."""

from collections.abc import Sequence
from typing import Any, cast

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.normalize import Schema, read_bounds
from plugins.providers.llama_cpp.grammar.json_schema.objects import MakeRule


def array_body(rules: Rules, make_rule: MakeRule, schema: Schema, place: str) -> str:
    """GBNF of the arrays that fulfil the schema's keywords; `prefixItems` are all written.

    Raises InvalidInput.
    """
    if schema.get("uniqueItems"):
        raise InvalidInput.at(f"{place}.uniqueItems", "is not supported")
    lead = _lead(make_rule, schema, place)
    rest = schema.get("items", not lead)
    if isinstance(rest, list | tuple):
        raise InvalidInput.at(f"{place}.items", "must be a schema; prefixItems takes a list")
    low, high = _counts(schema, len(lead), rest, place)
    if high == 0:
        return f'"[" space {_row(lead)} "]"'
    item = make_rule(rest, f"{place}.items")
    more = rules.add("more", f'"," space {item}')
    if lead:
        return f'"[" space {_row(lead, rules.repeated(more, low, high))} "]"'
    after = rules.repeated(more, max(0, low - 1), None if high is None else high - 1)
    some = _row([item], after)
    return f'"[" space {some} "]"' if low else f'"[" space ({some})? "]"'


def _lead(make_rule: MakeRule, schema: Schema, place: str) -> list[str]:
    found: Any = schema.get("prefixItems", ())
    if not isinstance(found, list | tuple):
        raise InvalidInput.at(f"{place}.prefixItems", "must be a list")
    each = enumerate(cast(Sequence[Any], found))
    return [make_rule(one, f"{place}.prefixItems[{at}]") for at, one in each]


def _counts(schema: Schema, lead: int, rest: Any, place: str) -> tuple[int, int | None]:
    """How many items may follow the first ones."""
    low, high = read_bounds(schema, "minItems", "maxItems", place)
    if high is not None and high < lead:
        raise InvalidInput.at(f"{place}.maxItems", "is less than the number of prefixItems")
    if rest is not False:
        return max(0, low - lead), None if high is None else high - lead
    if low > lead:
        raise InvalidInput.at(f"{place}.minItems", "is more than the items that the schema allows")
    return 0, 0


def _row(items: list[str], after: str = "") -> str:
    return " ".join(filter(None, (' "," space '.join(items), after, "space" * bool(items))))
