"""JSON schemas as grammars, checked with llama.cpp's own grammar sampler."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.native.bindings import Model
from tests.support.llama_model import matches_grammar, open_model
from tests.support.schema_grammar import schema_grammar
from tests.support.tiny_gguf import write_tiny_gguf

_NODE: dict[str, Any] = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["value", "next"],
        }
    },
    "$ref": "#/$defs/node",
}
_OPTIONAL: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "null"}, "b": {"type": "null"}, "c": {"type": "null"}},
}
_OPEN: dict[str, Any] = {
    "properties": {"a": {"type": "integer"}, "ab": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": {"type": "null"},
}
_TAGGED: dict[str, Any] = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"kind": {"const": kind}, "size": {"type": "integer"}},
            "required": ["kind"],
        }
        for kind in ("cat", "dog")
    ]
}
_JOINED: dict[str, Any] = {
    "allOf": [
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"properties": {"b": {"const": 1}, "a": {"minimum": 5}}, "required": ["b"]},
    ]
}
_ALLOWED: list[tuple[Any, list[str]]] = [
    (True, ["1", '"x"', "null", '{"a": [1, {"b": []}]}', "-0.5e+10", "[ ]"]),
    ({}, ["true", "{}", "[\n 1,\n 2]"]),
    ({"type": "object"}, ["{}", '{"a": 1, "a": {}}']),
    (_OPTIONAL, ["{}", '{"b":null}', '{"a":null, "c":null}', '{"a":null,"b":null,"c":null}']),
    (_OPEN, ['{"a": 1}', '{"a":1,"ab":true}', '{"a":1,"abc":null,"b":null,"":null}']),
    ({"additionalProperties": False}, ["{}", "{ }"]),
    ({"required": ["x"], "additionalProperties": {"type": "string"}}, ['{"x":"1","y":"2"}']),
    (_NODE, ['{"value":1,"next":null}', '{"value":1,"next":{"value":-2,"next":null}}']),
    (_TAGGED, ['{"kind":"cat"}', '{"kind":"dog","size":3}']),
    (_JOINED, ['{"a":5,"b":1}']),
    ({"type": ["string", "null"], "enum": ["a", None]}, ['"a"', "null"]),
    ({"enum": [1, "ü", [1, {"x": None}]]}, ["1", '"ü"', '[1, {"x": null}]']),
    ({"const": 'say "hi"\n'}, ['"say \\"hi\\"\\n"']),
    ({"type": "string", "nullable": True}, ['"x"', "null"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"aé🐒"', '"\\n\\u00e9"']),
    ({"type": "string", "maxLength": 250}, ['""', f'"{"x" * 250}"']),
    ({"type": "string", "minLength": 130}, [f'"{"x" * 130}"', f'"{"x" * 400}"']),
    ({"pattern": "^[a-z]+\\.(py|js)$"}, ['"a.py"', '"main.js"']),
    ({"pattern": "b.d"}, ['"a bad day"', '"bxd"']),
    ({"pattern": '^["\\\\]{2}$'}, ['"\\"\\\\"']),
    ({"pattern": "^[0-9]{3}$", "maxLength": 3}, ['"123"']),
    ({"type": "string", "format": "date"}, ['"2024-02-29"', '"2000-02-29"', '"2023-12-31"']),
    ({"type": "string", "format": "time"}, ['"23:59:59Z"', '"00:00:00.5+01:30"']),
    ({"type": "string", "format": "date-time"}, ['"2024-06-30T12:00:00Z"']),
    ({"type": "string", "format": "uuid"}, ['"123e4567-e89b-12d3-a456-426614174000"']),
    ({"type": "string", "format": "email"}, ['"a.b@example.com"']),
    ({"type": "string", "format": "uri"}, ['"https://example.com/a?b=%20"']),
    ({"type": "string", "format": "ipv4"}, ['"192.168.0.255"']),
    ({"type": "integer"}, ["0", "-7", "1234567890123456"]),
    ({"type": "number"}, ["0.5", "-1e9", "3"]),
    ({"type": "integer", "minimum": 3, "maximum": 120}, ["3", "99", "120"]),
    ({"type": "integer", "exclusiveMinimum": -12, "exclusiveMaximum": 1}, ["-11", "-3", "0"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "1", "0.5", "1.0", "0.0"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0.001", "1", "70000.5"]),
    ({"type": "integer", "maximum": 1.7976931348623157e308}, ["5", "-5"]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
     ["[true]", "[true, false,true]"]),
    ({"type": "array", "maxItems": 0}, ["[]"]),
    ({"items": {"const": 1}, "minItems": 2}, ["[1,1]", "[1, 1, 1, 1]"]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, ['[1,"a"]']),
    ({"prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 2}, ["[1, 2]", "[1,2,2]"]),
    ({"anyOf": [{"type": "string"}, {"type": "integer"}], "title": "x"}, ['"x"', "1"]),
    ({"anyOf": [{"minimum": 1}, {"maximum": -1}], "type": "integer"}, ["1", "-1"]),
]  # fmt: skip
_FORBIDDEN: list[tuple[Any, list[str]]] = [
    (True, ["", "{", "nul", "01", "[1,]", '{"a"}', '"\\ud800"', "1 1", '"\n"', "NaN"]),
    ({"type": "object"}, ["[]", "1", '{"a":1,}']),
    (_OPTIONAL, ['{"b":null,"a":null}', "{,}", '{"a":null,}', '{"d":null}', '{"a":1}']),
    (_OPEN, ["{}", '{"a":1,"ab":null}', '{"a":1,"c":1}', '{"a":1,"\\u0061b":null}']),
    ({"additionalProperties": False}, ['{"a":1}']),
    (_NODE, ['{"value":1}', '{"value":1,"next":{}}', '{"value":1.5,"next":null}']),
    (_TAGGED, ['{"kind":"cow"}', "{}"]),
    (_JOINED, ['{"a":5}', '{"a":4,"b":1}', '{"a":5,"b":2}']),
    ({"enum": [1, "ü"]}, ["2", '"u"', "1.0"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"a"', '"abcd"', '"é"', '"🐒"']),
    ({"type": "string", "maxLength": 250}, [f'"{"x" * 251}"']),
    ({"type": "string", "minLength": 130}, [f'"{"x" * 129}"']),
    ({"pattern": "^[a-z]+\\.(py|js)$"}, ['".py"', '"a.rs"', '"a.pyc"', '"axpy"']),
    ({"pattern": "b.d"}, ['"bd"', '"b\\nd"']),
    ({"type": "string", "format": "date"}, ['"2023-02-29"', '"1900-02-29"', '"2023-04-31"']),
    ({"type": "string", "format": "time"}, ['"24:00:00Z"', '"12:00"', '"12:00:60Z"']),
    ({"type": "string", "format": "uuid"}, ['"123e4567e89b12d3a456426614174000"']),
    ({"type": "string", "format": "ipv4"}, ['"256.1.1.1"', '"1.1.1"']),
    ({"type": "integer"}, ["1.0", "01", "1e3", '"1"']),
    ({"type": "integer", "minimum": 3, "maximum": 120}, ["2", "121", "-3", "1200", "03"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["1.5", "-1", "-0.5", "2", "1.01", "1e0"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0", "0.0", "-1"]),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
     ["[]", "[true,true,true,true]", "[1]"]),
    ({"prefixItems": [{"type": "integer"}, {"type": "string"}]}, ["[1]", '[1,"a",2]', "[]"]),
    ({"anyOf": [{"minimum": 1}, {"maximum": -1}], "type": "integer"}, ["0"]),
]  # fmt: skip
_REFUSED: list[tuple[Any, str]] = [
    (False, "s"),
    ([], "s"),
    ({"type": "foo"}, "s.type"),
    ({"enum": []}, "s.enum"),
    ({"patternProperties": {}}, "s.patternProperties"),
    ({"properties": {"a": {"items": {"not": {}}}}}, "s.properties.a.items.not"),
    ({"if": {}}, "s.if"),
    ({"type": "array", "uniqueItems": True}, "s.uniqueItems"),
    ({"type": "integer", "multipleOf": 5}, "s.multipleOf"),
    ({"type": "string", "format": "color"}, "s.format"),
    ({"pattern": "(?=x)"}, "s.pattern"),
    ({"pattern": "a*", "maxLength": 5}, "s.pattern"),
    ({"pattern": 5}, "s.pattern"),
    ({"minLength": -1}, "s.minLength"),
    ({"minLength": 5, "maxLength": 4}, "s.maxLength"),
    ({"minItems": "1"}, "s.minItems"),
    ({"minimum": "1"}, "s.minimum"),
    ({"type": "integer", "minimum": 3, "maximum": 2}, "s"),
    ({"type": "integer", "minimum": 10**40}, "s.minimum"),
    ({"type": "object", "minProperties": 1}, "s.minProperties"),
    ({"type": "object", "maxProperties": 1}, "s.maxProperties"),
    ({"properties": []}, "s.properties"),
    ({"required": "a"}, "s.required"),
    ({"required": ["a"], "additionalProperties": False}, "s.required"),
    ({"items": [{"type": "string"}]}, "s.items"),
    ({"$ref": "other.json"}, "s.$ref"),
    ({"$ref": "#/$defs/none"}, "s.$ref"),
    ({"$ref": "#"}, "s"),
    ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "s"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "s.oneOf"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "s"),
    ({"allOf": [{"pattern": "a"}, {"pattern": "b"}]}, "s"),
    ({"anyOf": []}, "s.anyOf"),
    ({"enum": ["a"], "minLength": 1}, "s.minLength"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("tiny")
    return open_model(write_tiny_gguf(folder / "tiny.gguf"))


@pytest.mark.parametrize(("schema", "documents"), _ALLOWED)
def test_schema_when_document_fulfils_it_then_grammar_lets_it_through(
    model: Model, schema: Any, documents: list[str]
):
    grammar = schema_grammar(schema, "s")
    assert [text for text in documents if not matches_grammar(model, grammar, text)] == []


@pytest.mark.parametrize(("schema", "documents"), _FORBIDDEN)
def test_schema_when_document_does_not_fulfil_it_then_grammar_stops_it(
    model: Model, schema: Any, documents: list[str]
):
    grammar = schema_grammar(schema, "s")
    assert [text for text in documents if matches_grammar(model, grammar, text)] == []


@pytest.mark.parametrize(("schema", "place"), _REFUSED)
def test_schema_when_it_can_not_be_kept_then_refused_with_the_place(schema: Any, place: str):
    with pytest.raises(InvalidInput) as caught:
        schema_grammar(schema, "s")
    assert caught.value.details["field"] == place


def test_schema_when_nested_without_measure_then_refused():
    schema: Mapping[str, Any] = {"type": "null"}
    for _ in range(100):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidInput, match="too deep"):
        schema_grammar(schema, "s")


def test_schema_when_it_combines_without_measure_then_refused():
    either = {"anyOf": [{"minLength": 1}, {"minLength": 2}, {"minLength": 3}, {"maxLength": 9}]}
    with pytest.raises(InvalidInput, match="combinations"):
        schema_grammar({"type": "string", "allOf": [either] * 8}, "s")


def test_schema_when_it_has_hundreds_of_properties_then_still_made(model: Model):
    names = [f"property_{at}" for at in range(300)]
    schema = {"properties": {name: {"type": "integer"} for name in names}, "required": names[::2]}
    document = json.dumps(dict.fromkeys(names[::2], 1))
    assert matches_grammar(model, schema_grammar(schema, "s"), document)
