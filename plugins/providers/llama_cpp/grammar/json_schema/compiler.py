"""Converts a JSON schema to GBNF.

The grammar is never weaker than the schema: what it can't express is rejected by name.
It is stricter where that helps a model: properties come in the order in which they are
declared, an object that declares some has no others unless `additionalProperties` says
so, numbers have at most 16 digits before and behind the point, and there is little space.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.charsets import literal
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.json_schema.arrays import array_body
from plugins.providers.llama_cpp.grammar.json_schema.normalize import (
    KEYWORDS,
    KINDS,
    Document,
    Schema,
    as_schema,
    says_more,
    written,
)
from plugins.providers.llama_cpp.grammar.json_schema.numbers import integer_body, number_body
from plugins.providers.llama_cpp.grammar.json_schema.objects import object_body
from plugins.providers.llama_cpp.grammar.json_schema.strings import string_body

_MOST_RULES = 8000
_DEEPEST = 64
_MOST_ALTERNATIVES = 32


def schema_rule(rules: Rules, schema: Any, place: str, *, whole: Any = None) -> str:
    """The name of a rule for the JSON texts that fulfil a schema.

    `whole` is what its references are within, if it is a part. Raises InvalidInput.
    """
    document = Document(schema if whole is None else whole, place)
    return _Compiler(rules, document).rule(schema, place)


class _Compiler:
    """Walks one schema; equal parts of it share a rule, which lets a schema use itself."""

    def __init__(self, rules: Rules, document: Document) -> None:
        self._rules, self._document = rules, document
        self._known: dict[str, str] = {}
        self._depth = 0
        self._kinds: dict[str, Callable[[Schema, str], str]] = {
            "object": lambda schema, place: object_body(rules, self.rule, schema, place),
            "array": lambda schema, place: array_body(rules, self.rule, schema, place),
            "string": lambda schema, place: string_body(rules, schema, place),
            "number": number_body,
            "integer": integer_body,
            "boolean": lambda _schema, _place: "boolean",
            "null": lambda _schema, _place: "null",
        }

    def rule(self, schema: Any, place: str) -> str:
        key = written(schema)
        known = self._known.get(key)
        if known is not None:
            return known
        if self._depth >= _DEEPEST or len(self._rules) > _MOST_RULES:
            raise InvalidInput.at(place, "the schema is nested too deeply or too large")
        name = self._known[key] = self._rules.reserve("part")
        self._depth += 1
        self._rules.define(name, " | ".join(self._ways(schema, place)))
        self._depth -= 1
        return name

    def _ways(self, schema: Any, place: str) -> list[str]:
        """Rules, of which one has to fit."""
        whole = as_schema(schema, place)
        if "$ref" in whole and not says_more(whole, "$ref"):
            target = self._document.at(whole["$ref"], f"{place}.$ref")
            return [self.rule(target, f"{place}.$ref")]
        variants = self._document.variants(whole, place)
        for key in ("anyOf", "oneOf"):
            if key in whole and not says_more(whole, key):
                return [
                    self.rule(each, f"{place}.{key}[{at}]")
                    for at, each in enumerate(cast(list[Any], whole[key]))
                ]
        return [way for variant in variants for way in self._plain(variant, place)]

    def _plain(self, schema: Schema, place: str) -> list[str]:
        """Rules for a schema without references and combinations."""
        kinds: Sequence[str] = schema.get("type") or [
            kind for kind, keywords in KEYWORDS.items() if any(key in schema for key in keywords)
        ]
        if "enum" in schema:
            return [self._enum(schema, kinds or KINDS, place)]
        if not kinds:
            return ["value"]
        if "number" in kinds:
            kinds = [kind for kind in kinds if kind != "integer"]
        return [self._kinds[kind](schema, place) for kind in kinds]

    def _enum(self, schema: Schema, kinds: Sequence[str], place: str) -> str:
        """The values themselves; what else the schema says of them is checked here."""
        values = [value for value in schema["enum"] if _fits(value, kinds)]
        for keywords in KEYWORDS.values():
            for key in keywords:
                if key in schema:
                    raise InvalidInput.at(f"{place}.{key}", "is not supported beside enum or const")
        if not values:
            raise InvalidInput.at(f"{place}.enum", "no value has the schema's type")
        try:
            texts = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in values]
        except ValueError as error:
            raise InvalidInput.at(f"{place}.enum", "JSON has no infinity or NaN") from error
        return self._texts_rule(sorted(set(texts)), _DEEPEST)

    def _texts_rule(self, texts: list[str], depth: int) -> str:
        """A rule for these texts; many are divided by how they start, to be read in fewer ways."""
        if len(texts) <= _MOST_ALTERNATIVES or not depth:
            return self._rules.add("enum", " | ".join(literal(text) for text in texts))
        pairs = zip(texts[0], texts[-1], strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        ways: list[str] = []
        for start, group in itertools.groupby(texts, key=lambda text: text[: shared + 1]):
            rests = [text[len(start) :] for text in group]
            ways.append(f"{literal(start)} {self._texts_rule(rests, depth - 1)}")
        return self._rules.add("enum", " | ".join(ways))


def _fits(value: Any, kinds: Sequence[str]) -> bool:
    """Whether a value is of one of these JSON types."""
    for types, names in _TYPES:
        if isinstance(value, types):
            return any(name in kinds for name in names)
    return value is None and "null" in kinds


_TYPES: tuple[tuple[type | tuple[type, ...], tuple[str, ...]], ...] = (
    (bool, ("boolean",)),
    (int, ("integer", "number")),
    (float, ("number",)),
    (str, ("string",)),
    ((list, tuple), ("array",)),
    (dict, ("object",)),
)
