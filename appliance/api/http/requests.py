"""The request as this API reads it: JSON, or a form where a client sends one."""

import math
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.enums import RequestEncodingType
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty

from appliance.api.http import request_context
from appliance.domain.users import Principal
from appliance.errors import InvalidInput, Unauthenticated

_FIELDS = 1000


class ApiRequest(Request[Principal, Any, State]):
    """Reads a form as if it were a JSON object of strings."""

    async def body(self) -> bytes:
        """All of it, read once. Raises RequestEntityTooLarge, InvalidInput."""
        if self._body is Empty:
            self._body = self._connection_state.body = await self._received()
        return self._body

    async def json(self) -> Any:
        """The decoded body. Raises InvalidInput with the place of a mistake."""
        kind = self.content_type[0]
        if kind == RequestEncodingType.MULTI_PART:
            return dict(await self.form())
        body = await self.body()
        # curl -d sends JSON under the form's name unless told otherwise.
        if kind == RequestEncodingType.URL_ENCODED and not body.lstrip().startswith(b"{"):
            return _decode_form(body)
        return _decode_json(body)

    async def _received(self) -> bytes:
        most = self.route_handler.resolve_request_max_body_size() or math.inf
        announced = request_context.header(self.scope, b"content-length") or "0"
        if announced.isdecimal() and int(announced) > most:
            raise RequestEntityTooLarge  # without reading any of it
        pieces, size, more = list[bytes](), 0, True
        while more:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise InvalidInput("the connection ended before the body did")
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
            if size > most:
                raise RequestEntityTooLarge
        return b"".join(pieces)


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who makes this request; only behind the guard that finds it out."""
    principal = request_context.principal(request.scope)
    if principal is None:
        raise Unauthenticated("credentials are missing")
    return principal


def _decode_form(body: bytes) -> dict[str, str]:
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_FIELDS))
    except ValueError as error:
        raise InvalidInput.at("body", f"the form is malformed: {error}") from None


def _decode_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise InvalidInput.at("body", "the JSON is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput.at("body", str(error)) from None
