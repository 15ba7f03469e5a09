"""Decodes a body straight into the Struct of its route, without a generic dict first."""

from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from appliance.api.http import request_context
from appliance.api.http.requests import ApiRequest
from appliance.api.http.validation import invalid_field
from appliance.errors import InvalidInput

_BODY = "wire_body"


def decode_body_as(body: type[Struct]) -> dict[str, Any]:
    """The `opt` of a route whose body is a `body`."""
    return {_BODY: body}


class WireRequest(ApiRequest):
    """A request whose `json` is the Struct given to `decode_body_as`."""

    async def json(self) -> Any:
        """The decoded body. Raises InvalidInput naming the field."""
        decoder = _decoder(request_context.route_options(self.scope)[_BODY])
        body = await self.body()
        try:
            return decoder.decode(body)
        except RecursionError:
            raise InvalidInput.at("body", "the JSON is nested too deeply") from None
        except msgspec.ValidationError as error:
            raise invalid_field(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput.at("body", str(error)) from None


@cache
def _decoder(body: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body)
