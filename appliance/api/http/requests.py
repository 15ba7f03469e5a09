"""The request class: bodies are JSON, or small forms read as JSON objects of strings."""

from typing import Any
from urllib.parse import parse_qsl

from litestar import Request
from litestar.datastructures import State
from litestar.enums import RequestEncodingType
from litestar.exceptions.http_exceptions import RequestEntityTooLarge
from litestar.types import Empty, Scope

from appliance.api.http import request_context
from appliance.api.http.route_table import RoutePolicy
from appliance.domain.users import Principal
from appliance.errors import IncompleteBody, InvalidInput, PayloadTooLarge, Unauthenticated

_MAX_FORM_FIELDS = 1000
_MAX_FORM_BYTES = 64 * 1024


class ApiRequest(Request[Principal, Any, State]):
    """Litestar's request with a limited body, decoded as the type that the handler takes."""

    async def body(self) -> bytes:
        """The whole body, read once. Raises RequestEntityTooLarge, IncompleteBody."""
        if self._body is Empty:
            self._body = self._connection_state.body = await self._read_body()
        return self._body

    async def json(self) -> Any:
        """The decoded JSON or form. Raises InvalidInput."""
        body, decoder = await self.body(), self._policy().decoder
        if decoder is None:
            raise LookupError("the handler of this route takes no body")
        # Not self.content_type, which decodes all headers.
        content_type = request_context.header(self.scope, b"content-type") or ""
        kind = content_type.partition(";")[0].strip().lower()
        if kind == RequestEncodingType.MULTI_PART:
            _require_form_size(body)
            return decoder.convert_form(dict(await self.form()))
        # curl -d declares a form by default, even for JSON.
        if kind == RequestEncodingType.URL_ENCODED and not body[:1024].lstrip().startswith(b"{"):
            return decoder.convert_form(_decode_form(body))
        return await decoder.decode(body)

    def _policy(self) -> RoutePolicy:
        policy = request_context.route_policy(self.scope)
        if policy is None:
            raise LookupError("this route takes no body")
        return policy

    async def _read_body(self) -> bytes:
        max_bytes = self._policy().max_body_bytes
        declared = request_context.header(self.scope, b"content-length") or "0"
        if declared.isdecimal() and int(declared) > max_bytes:
            raise RequestEntityTooLarge  # before reading any of it
        pieces, size, more = list[bytes](), 0, True
        while more:
            message: Any = await self.receive()
            if message["type"] == "http.disconnect":
                raise _incomplete_body(self.scope)
            pieces.append(message.get("body", b""))
            size, more = size + len(pieces[-1]), message.get("more_body", False)
            if size > max_bytes:
                raise RequestEntityTooLarge
        return b"".join(pieces)


def _incomplete_body(scope: Scope) -> IncompleteBody:
    """Granian reports a malformed chunk and the end of the connection in the same way."""
    if request_context.header(scope, b"transfer-encoding") is None:
        return IncompleteBody("the body ended before the Content-Length was reached")
    return IncompleteBody(
        "the chunked encoding of the body is malformed (RFC 9112, section 7.1), or the connection "
        "ended before its last chunk"
    )


def get_principal(request: Request[Any, Any, Any]) -> Principal:
    """The caller. Raises Unauthenticated on a route without `require_authentication`."""
    principal = request_context.principal(request.scope)
    if principal is None:
        raise Unauthenticated("credentials are missing")
    return principal


def _decode_form(body: bytes) -> dict[str, str]:
    _require_form_size(body)
    try:
        return dict(
            parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS)
        )
    except ValueError as error:
        raise InvalidInput.at("body", f"the form is malformed: {error}") from None


def _require_form_size(body: bytes) -> None:
    if len(body) > _MAX_FORM_BYTES:
        raise PayloadTooLarge(f"a form has at most {_MAX_FORM_BYTES} bytes; send JSON instead")
