"""The request as this API reads it: JSON, or a form where a client sends one."""

from typing import Any
from urllib.parse import parse_qsl

import msgspec
from litestar import Request
from litestar.datastructures import State
from litestar.enums import RequestEncodingType
from litestar.exceptions import InternalServerException

from appliance.api import context
from appliance.domain.users import Principal
from appliance.errors import InvalidInput, Unauthenticated

_FIELDS = 1000


class ApiRequest(Request[Principal, Any, State]):
    """Reads a form as if it were a JSON object of strings."""

    async def body(self) -> bytes:
        try:
            return await super().body()
        except InternalServerException:
            raise InvalidInput("the connection ended before the body did") from None

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


def principal_of(request: Request[Any, Any, Any]) -> Principal:
    """Who makes this request; only behind the guard that finds it out."""
    principal = context.principal(request.scope)
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
