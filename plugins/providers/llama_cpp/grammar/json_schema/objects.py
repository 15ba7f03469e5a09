"""GBNF of a JSON schema's objects: properties in declared order, then additional ones."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import (
    EVERYTHING,
    char_class,
    literal,
    minus,
    plain_class,
    union,
)
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.normalize import Schema, read_bounds

MakeRule = Callable[[Any, str], str]
_ANYTHING = plain_class(EVERYTHING)


def object_body(rules: Rules, make_rule: MakeRule, schema: Schema, place: str) -> str:
    """GBNF of the objects that fulfil the schema's keywords. Raises InvalidInput."""
    return _Object(rules, make_rule, schema, place).body()


class _Property(Struct, frozen=True):
    """`pair` is GBNF of the key, the colon and the value."""

    pair: str
    required: bool


class _Object:
    """One object schema. Without `additionalProperties` it has what it declares, if anything."""

    def __init__(self, rules: Rules, make_rule: MakeRule, schema: Schema, place: str) -> None:
        self._rules, self._make_rule = rules, make_rule
        self._schema, self._place = schema, place
        declared = schema.get("properties", {})
        if not isinstance(declared, Mapping):
            raise InvalidInput.at(f"{place}.properties", "must be an object")
        self._declared = cast(Mapping[str, Any], declared)
        self._required = _names(schema, place)
        self._others = schema.get("additionalProperties", not self._declared)

    def body(self) -> str:
        properties = list(self._properties())
        self._check_counts(properties)
        if not properties and self._others is True:
            return "object"
        members = _members(self._rules, properties, self._more())
        return f'"{{" space {members} "}}"'

    def _properties(self) -> Iterator[_Property]:
        """The declared ones, then those that are required all the same."""
        for name, each in self._declared.items():
            if each is not False or name in self._required:
                value = self._make_rule(each, f"{self._place}.properties.{name}")
                yield _Property(self._pair(name, value), name in self._required)
        for name in self._required:
            if name not in self._declared:
                if self._others is False:
                    raise InvalidInput.at(f"{self._place}.required", f"{name!r} is not allowed")
                value = self._make_rule(self._others, f"{self._place}.additionalProperties")
                yield _Property(self._pair(name, value), True)

    def _pair(self, name: str, value: str) -> str:
        key = literal(json.dumps(name, ensure_ascii=False))
        return self._rules.add("pair", f'{key} ":" gap {value}')

    def _check_counts(self, properties: list[_Property]) -> None:
        """Counts that the properties fulfil anyway say nothing; others can't be expressed."""
        low, high = read_bounds(self._schema, "minProperties", "maxProperties", self._place)
        if low > sum(each.required for each in properties):
            raise InvalidInput.at(
                f"{self._place}.minProperties",
                "must not exceed the required properties",
            )
        if high is not None and (self._others is not False or high < len(properties)):
            raise InvalidInput.at(
                f"{self._place}.maxProperties",
                "must not be less than the allowed properties",
            )

    def _more(self) -> str:
        """The rule of a pair beside the properties, "" if there may be none."""
        if self._others is False:
            return ""
        value = self._make_rule(self._others, f"{self._place}.additionalProperties")
        names = sorted({*self._declared, *self._required})
        key = self._other_key(names) if names else "string"
        return self._rules.add("other", f'{key} ":" gap {value}')

    def _other_key(self, names: list[str]) -> str:
        """Any key but these, written without escapes: those could spell one of them."""
        return self._rules.add("key", f'"\\"" {self._beside(names)}')

    def _beside(self, names: list[str]) -> str:
        """The rest of a key, up to its quote, that is none of these."""
        firsts = sorted({text[0] for text in names if text})
        ways = [] if "" in names else ['"\\""']
        for first in firsts:
            tails = [text[1:] for text in names if text[:1] == first]
            ways.append(f"{char_class(((ord(first), ord(first)),))} {self._beside(tails)}")
        taken = union((ord(first), ord(first)) for first in firsts)
        ways.append(f'{plain_class(minus(EVERYTHING, taken))} {_ANYTHING}* "\\""')
        return self._rules.add("beside", " | ".join(ways))


def _names(schema: Schema, place: str) -> list[str]:
    found: Any = schema.get("required", ())
    listed = isinstance(found, list | tuple)
    names: list[Any] = list(cast(Sequence[Any], found)) if listed else [found]
    if not all(isinstance(name, str) for name in names) or not listed:
        raise InvalidInput.at(f"{place}.required", "must be a list of names")
    return list(dict.fromkeys(names))


def _members(rules: Rules, properties: list[_Property], more: str) -> str:
    """What stands between the braces: each property may follow those before it.

    Two rules for each place: whether a member stands before it, so that a comma is due.
    """
    follow = f'("," space {more})* space' if more else "space"
    first = rules.add("members", f'{more} {follow} | ""') if more else '""'
    then = rules.add("then", follow)
    for each in reversed(properties):
        here, following = f"{each.pair} {then}", f'"," space {each.pair} {then}'
        if each.required:
            first, then = rules.add("members", here), rules.add("then", following)
        else:
            first = rules.add("members", f"{here} | {first}")
            then = rules.add("then", f"{following} | {then}")
    return first
