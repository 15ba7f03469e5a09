"""Decodes a body straight into the type of its route, never into generic dicts and lists.

msgspec holds the interpreter's lock while it decodes, so a thread would not keep the event loop
free. What takes long is the number of values, not of bytes: a large body has its values counted
first, by SQLite's JSON parser, which runs in a thread without that lock and stops at the limit.
"""

import asyncio
import sqlite3
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import msgspec
from litestar.handlers import BaseRouteHandler

from appliance.api.http.malformed_json import describe_malformed
from appliance.api.http.validation import invalid_field
from appliance.errors import InvalidInput, PayloadTooLarge

COUNTED_BYTES = 128 * 1024
"""The values of longer bodies are counted."""
MAX_VALUES = 131_072
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM json_tree(CAST(? AS TEXT)) LIMIT ?)"
_STRICT = "strict_body"
_counters = ThreadPoolExecutor(2, "json-count")


def strict_body() -> dict[str, Any]:
    """The `opt` of a route that refuses a number or a boolean given as a string."""
    return {_STRICT: True}


class BodyDecoder:
    """Decodes bodies as `kind`."""

    def __init__(self, kind: Any, *, strict: bool) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder[Any](kind, strict=strict)

    @classmethod
    def for_handler(cls, handler: BaseRouteHandler) -> "BodyDecoder | None":
        """The decoder for the `data` of a handler; None if it takes none."""
        field = handler.parsed_fn_signature.parameters.get("data")
        return field and cls(field.annotation, strict=handler.opt.get(_STRICT, False))

    async def decode(self, body: bytes) -> Any:
        """The decoded JSON. Raises InvalidInput naming the field, PayloadTooLarge."""
        if len(body) > COUNTED_BYTES:
            await _require_few_values(body)
        try:
            return self._decoder.decode(body)
        except RecursionError:
            raise InvalidInput.at("body", "the JSON is nested too deeply") from None
        except msgspec.ValidationError as error:
            raise invalid_field(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise describe_malformed(body, error) from None

    def convert_form(self, fields: Mapping[str, Any]) -> Any:
        """The fields of a form as `kind`. Raises InvalidInput naming the field."""
        try:
            return msgspec.convert(fields, self._kind, strict=False)
        except msgspec.ValidationError as error:
            raise invalid_field(error) from None


async def _require_few_values(body: bytes) -> None:
    loop = asyncio.get_running_loop()
    try:
        count = await loop.run_in_executor(_counters, _count_values, body)
    except sqlite3.OperationalError:
        raise InvalidInput.at("body", "the JSON is malformed or nested too deeply") from None
    if count > MAX_VALUES:
        raise PayloadTooLarge(
            f"body: has more than {MAX_VALUES} JSON values; split the request",
            details={"field": "body", "limit": MAX_VALUES},
        )


def _count_values(body: bytes) -> int:
    """The number of values in a JSON text; MAX_VALUES + 1 stands for more."""
    with closing(sqlite3.connect(":memory:")) as connection:
        return connection.execute(_COUNT, (body, MAX_VALUES + 1)).fetchone()[0]
