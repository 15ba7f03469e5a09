"""Normalizes JSON schemas: resolves references, merges `allOf`, expands `anyOf`, `oneOf`."""

import itertools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from appliance.errors import InvalidInput

Schema = dict[str, Any]

KINDS = ("object", "array", "string", "number", "integer", "boolean", "null")
KEYWORDS = {
    "object": ("properties", "required", "additionalProperties", "minProperties", "maxProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_GENERAL = ("type", "enum", "const", "nullable", "allOf", "anyOf", "oneOf", "$ref")
_SAYING_NOTHING = frozenset(
    (
        *("title", "description", "default", "examples", "example", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "$schema", "$id", "$defs", "definitions", "discriminator"),
        *("strict", "contentMediaType", "contentEncoding"),
    )
)
_KNOWN = frozenset((*_GENERAL, *itertools.chain.from_iterable(KEYWORDS.values())))
_MOST_VARIANTS = 256
_DEEPEST = 32
_MAX_COUNT = 1_000_000
_HIGHER = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"}
_LOWER = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"}


class Document:
    """The whole schema, in which references point to places."""

    def __init__(self, root: Any, place: str) -> None:
        self._root, self._place = root, place

    def at(self, reference: Any, place: str) -> Any:
        """What a reference points to. Raises InvalidInput."""
        if not isinstance(reference, str) or not (reference == "#" or reference[:2] == "#/"):
            raise InvalidInput.at(place, "only references within the schema (#/…) are supported")
        found = self._root
        for step in reference.split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, Mapping) and key in found:
                found = cast(Any, found[key])
            elif isinstance(found, list | tuple) and key.isdigit() and int(key) < len(found):  # pyright: ignore[reportUnknownArgumentType]
                found = cast(Any, found[int(key)])
            else:
                raise InvalidInput.at(place, f"{reference!r} does not exist in the schema")
        return found

    def variants(self, schema: Any, place: str, depth: int = 0) -> list[Schema]:
        """Schemas without references and combinations, one of which has to hold.

        Raises InvalidInput for a keyword that is not supported, and for a schema that
        nothing can fulfil.
        """
        if depth > _DEEPEST:
            raise InvalidInput.at(place, "refers to itself without end")
        plain, parts = self._parts(schema, place, depth)
        variants = [plain]
        for part in parts:
            if len(variants) * len(part) > _MOST_VARIANTS:
                raise InvalidInput.at(place, f"expands to more than {_MOST_VARIANTS} combinations")
            variants = list(_merged(variants, part, place))
        if not variants:
            raise InvalidInput.at(place, "no value can satisfy all of it")
        return variants

    def _parts(self, schema: Any, place: str, depth: int) -> tuple[Schema, list[list[Schema]]]:
        """The plain keywords, and lists of variants that must hold beside them."""
        whole = as_schema(schema, place)
        plain = {key: value for key, value in whole.items() if key not in _SAYING_NOTHING}
        parts: list[list[Schema]] = []
        if "$ref" in plain:
            target = self.at(plain.pop("$ref"), f"{place}.$ref")
            parts.append(self.variants(target, f"{place}.$ref", depth + 1))
        for at, each in enumerate(_list(plain, "allOf", place)):
            parts.append(self.variants(each, f"{place}.allOf[{at}]", depth + 1))
        for key in ("anyOf", "oneOf"):
            choices = [
                self.variants(each, f"{place}.{key}[{at}]", depth + 1)
                for at, each in enumerate(_list(plain, key, place))
            ]
            if key == "oneOf":
                _check_apart(choices, f"{place}.oneOf")
            if choices:
                parts.append([variant for choice in choices for variant in choice])
        return _normal(plain, place), parts


def as_schema(schema: Any, place: str) -> Schema:
    """A copy with known keywords only. Raises InvalidInput."""
    if schema is True:
        return {}
    if schema is False:
        raise InvalidInput.at(place, "no value can satisfy it")
    if not isinstance(schema, Mapping):
        raise InvalidInput.at(place, "must be an object or a boolean")
    copy = {str(key): value for key, value in cast(Mapping[Any, Any], schema).items()}
    for key in copy:
        if key not in _KNOWN and key not in _SAYING_NOTHING:
            raise InvalidInput.at(f"{place}.{key}", "this keyword is not supported")
    return copy


def says_more(schema: Schema, *keywords: str) -> bool:
    """Whether it has keywords with a meaning beside these."""
    return any(key not in _SAYING_NOTHING and key not in keywords for key in schema)


def written(value: Any) -> str:
    """A JSON value in one spelling, so that equal ones compare equal."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _list(schema: Schema, key: str, place: str) -> list[Any]:
    """The keyword's list, taken out of the schema."""
    if key not in schema:
        return []
    found = schema.pop(key)
    if not isinstance(found, list | tuple) or not found:
        raise InvalidInput.at(f"{place}.{key}", "must be a non-empty list of schemas")
    return list(cast(Iterable[Any], found))


def _normal(schema: Schema, place: str) -> Schema:
    """`const` as an enum of one, types as a list, `nullable` as a type."""
    if "const" in schema:
        value = schema.pop("const")
        if "enum" in schema and written(value) not in map(written, schema["enum"]):
            raise InvalidInput.at(place, "no value can satisfy all of it")
        schema["enum"] = [value]
    if "enum" in schema and (not isinstance(schema["enum"], list | tuple) or not schema["enum"]):
        raise InvalidInput.at(f"{place}.enum", "must be a non-empty list")
    if "type" in schema:
        schema["type"] = _types(schema["type"], f"{place}.type")
    if schema.pop("nullable", False) and "type" in schema:
        schema["type"] = [*schema["type"], "null"]
        if "enum" in schema:
            schema["enum"] = [*schema["enum"], None]
    return schema


def _types(found: Any, place: str) -> list[str]:
    names = list(cast(list[Any], found)) if isinstance(found, list | tuple) else [found]
    if not names or any(name not in KINDS for name in names):
        raise InvalidInput.at(place, f"must be one or more of: {', '.join(KINDS)}")
    return names


def _merged(left: Iterable[Schema], right: Iterable[Schema], place: str) -> Iterable[Schema]:
    for one, other in itertools.product(left, right):
        both = _both(one, other, place)
        if both is not None:
            yield both


def _both(left: Schema, right: Schema, place: str) -> Schema | None:
    """A schema that asks for all that either asks for; None if nothing can fulfil it."""
    merged: Schema = {**left, **right}
    for key in left.keys() & right.keys():
        one, other = left[key], right[key]
        if written(one) != written(other):
            merge = _MERGES.get(key)
            if merge is None:
                raise InvalidInput.at(place, f"different values of {key!r} can't be merged")
            merged[key] = merge(one, other)
    if not _joined_properties(merged, left, right):
        return None
    possible = merged.get("type") != [] and merged.get("enum") != []
    return merged if possible else None


def _joined_properties(merged: Schema, left: Schema, right: Schema) -> bool:
    """What one side says of properties that only the other names holds for them too."""
    properties = dict(merged.get("properties", {}))
    for name in list(properties):
        for side in (left, right):
            if name in side.get("properties", {}) or "additionalProperties" not in side:
                continue
            if side["additionalProperties"] is False:
                del properties[name]
                break
            properties[name] = {"allOf": [properties[name], side["additionalProperties"]]}
    if properties or "properties" in merged:
        merged["properties"] = properties
    closed = merged.get("additionalProperties") is False
    return not closed or set(merged.get("required", ())) <= properties.keys()


def _join_types(one: list[str], other: list[str]) -> list[str]:
    found = [name for name in one if name in other]
    if "integer" not in found and {"integer", "number"} <= {*one, *other}:
        found.append("integer")
    return found


def _join_enums(one: list[Any], other: list[Any]) -> list[Any]:
    known = {written(value) for value in other}
    return [value for value in one if written(value) in known]


def _join_schemas(one: Any, other: Any) -> Any:
    return False if False in (one, other) else {"allOf": [one, other]}


def _join_each(one: Mapping[str, Any], other: Mapping[str, Any]) -> Schema:
    return {
        key: {"allOf": [one[key], other[key]]} if key in one and key in other
        else one.get(key, other.get(key))
        for key in {**one, **other}
    }  # fmt: skip


def _join_names(one: Iterable[str], other: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*one, *other]))


_MERGES: dict[str, Callable[[Any, Any], Any]] = {
    "type": _join_types,
    "enum": _join_enums,
    "required": _join_names,
    "properties": _join_each,
    "items": _join_schemas,
    "additionalProperties": _join_schemas,
    **dict.fromkeys(_HIGHER, max),
    **dict.fromkeys(_LOWER, min),
}


def _check_apart(choices: list[list[Schema]], place: str) -> None:
    """`oneOf` forbids that two hold; that is only sure if no value can fulfil both."""
    for (at, one), (other_at, other) in itertools.combinations(enumerate(choices), 2):
        if any(not _apart(left, right) for left in one for right in other):
            raise InvalidInput.at(
                place, f"[{at}] and [{other_at}] may both match; use anyOf if that is fine"
            )


def _apart(left: Schema, right: Schema) -> bool:
    """Whether no value fulfils both, as far as types, enums and required properties tell."""
    if "type" in left and "type" in right and not _join_types(left["type"], right["type"]):
        return True
    if "enum" in left and "enum" in right:
        return not _join_enums(left["enum"], right["enum"])
    if left.get("type") != ["object"] or right.get("type") != ["object"]:
        return False
    names = {*left.get("required", ()), *right.get("required", ())}
    return any(_property_apart(left, right, name) for name in names)


def _property_apart(left: Schema, right: Schema, name: str) -> bool:
    required = [name in side.get("required", ()) for side in (left, right)]
    one, other = (side.get("properties", {}).get(name) for side in (left, right))
    if all(required) and one is not None and other is not None:
        values = [_values(each) for each in (one, other)]
        return all(values) and not _join_enums(*values)
    missing = [side for side, known in ((left, one), (right, other)) if known is None]
    return any(side.get("additionalProperties") is False for side in missing)


def _values(schema: Any) -> list[Any]:
    """What `const` or `enum` allow; nothing if the schema has neither."""
    if not isinstance(schema, Mapping):
        return []
    known = cast(Mapping[str, Any], schema)
    found: Any = [known["const"]] if "const" in known else known.get("enum", ())
    return list(cast(Iterable[Any], found)) if isinstance(found, list | tuple) else []


def read_bounds(schema: Schema, low_key: str, high_key: str, place: str) -> tuple[int, int | None]:
    """The values of a pair of keywords such as minItems and maxItems. Raises InvalidInput."""
    low, high = _read_count(schema, low_key, place) or 0, _read_count(schema, high_key, place)
    if high is not None and high < low:
        raise InvalidInput.at(f"{place}.{high_key}", f"is less than {low_key}")
    return low, high


def _read_count(schema: Schema, key: str, place: str) -> int | None:
    value: Any = schema.get(key)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidInput.at(f"{place}.{key}", "must be a non-negative integer")
    if value > _MAX_COUNT:
        raise InvalidInput.at(f"{place}.{key}", f"must be at most {_MAX_COUNT}")
    return value
