"""Rows of the database as msgspec Structs, by column name."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct
from msgspec import inspect as shapes

RowT = TypeVar("RowT", bound=Struct)

_SCALARS = (
    shapes.IntType,
    shapes.FloatType,
    shapes.StrType,
    shapes.BytesType,
    shapes.NoneType,
    shapes.EnumType,
    shapes.LiteralType,
    shapes.AnyType,
)


class _Columns(Struct, frozen=True):
    """The columns that need help on their way into a Struct."""

    booleans: tuple[str, ...]
    documents: tuple[str, ...]


def to_row(row_type: type[RowT], row: Any) -> RowT:
    """A Struct from a row: 0/1 becomes bool, the text of a nested field is read as JSON."""
    columns = _columns(row_type)
    values: dict[str, Any] = dict(row)
    for name in columns.booleans:
        if values.get(name) is not None:
            values[name] = bool(values[name])
    for name in columns.documents:
        if values.get(name) is not None:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, row_type)


def to_json(value: Any) -> str:
    """The text that a nested field of a Struct is stored as."""
    return msgspec.json.encode(value).decode()


@cache
def _columns(row_type: type[Struct]) -> _Columns:
    info = cast("shapes.StructType", shapes.type_info(row_type))
    kinds = [(field.encode_name, _arms(field.type)) for field in info.fields]
    return _Columns(
        booleans=tuple(name for name, arms in kinds if _any(arms, (shapes.BoolType,))),
        documents=tuple(
            name for name, arms in kinds if not _all(arms, (*_SCALARS, shapes.BoolType))
        ),
    )


def _arms(shape: shapes.Type) -> Sequence[shapes.Type]:
    return shape.types if isinstance(shape, shapes.UnionType) else (shape,)


def _any(arms: Sequence[shapes.Type], kinds: tuple[type[shapes.Type], ...]) -> bool:
    return any(isinstance(arm, kinds) for arm in arms)


def _all(arms: Sequence[shapes.Type], kinds: tuple[type[shapes.Type], ...]) -> bool:
    return all(isinstance(arm, kinds) for arm in arms)
