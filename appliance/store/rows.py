"""Converts rows of the database to msgspec Structs, by column name."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct
from msgspec import inspect as types

from appliance.store import documents

RowT = TypeVar("RowT", bound=Struct)

_SCALARS = (
    types.BoolType,
    types.IntType,
    types.FloatType,
    types.StrType,
    types.BytesType,
    types.NoneType,
    types.EnumType,
    types.LiteralType,
    types.AnyType,
)


class _Columns(Struct, frozen=True):
    """The columns that need conversion: 0/1 to bool, JSON text to nested values."""

    booleans: tuple[str, ...]
    documents: tuple[str, ...]


def to_row(row_type: type[RowT], row: Any) -> RowT:
    """The Struct of a row: 0/1 becomes bool, a nested field is decoded by `documents`."""
    columns = _columns(row_type)
    values: dict[str, Any] = dict(row)
    for name in columns.booleans:
        if values.get(name) is not None:
            values[name] = bool(values[name])
    for name in columns.documents:
        if values.get(name) is not None:
            values[name] = documents.decode(values[name])
    return msgspec.convert(values, row_type)


def has_compressed(row_type: type[Struct], row: Any) -> bool:
    """Whether a nested field of the row is compressed, so that `to_row` can take long."""
    names = row.keys()
    return any(
        isinstance(row[name], bytes) for name in _columns(row_type).documents if name in names
    )


def to_json(value: Any) -> str:
    """The JSON text in which a nested field of a Struct is stored."""
    return msgspec.json.encode(value).decode()


@cache
def _columns(row_type: type[Struct]) -> _Columns:
    info = cast("types.StructType", types.type_info(row_type))
    members = {field.encode_name: _union_members(field.type) for field in info.fields}
    booleans = [name for name, kinds in members.items() if _any_is(kinds, types.BoolType)]
    scalars = [name for name, kinds in members.items() if _all_are(kinds, _SCALARS)]
    return _Columns(
        booleans=tuple(booleans),
        documents=tuple(name for name in members if name not in scalars),
    )


def _union_members(kind: types.Type) -> Sequence[types.Type]:
    return kind.types if isinstance(kind, types.UnionType) else (kind,)


def _any_is(kinds: Sequence[types.Type], expected: type[types.Type]) -> bool:
    return any(isinstance(kind, expected) for kind in kinds)


def _all_are(kinds: Sequence[types.Type], expected: tuple[type[types.Type], ...]) -> bool:
    return all(isinstance(kind, expected) for kind in kinds)
