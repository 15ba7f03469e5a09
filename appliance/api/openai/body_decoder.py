"""The body of a request, decoded once, straight into its wire Struct."""

import re
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct

from appliance.api.http import request_context
from appliance.api.http.requests import ApiRequest
from appliance.api.http.validation import located
from appliance.errors import InvalidInput

_BODY = "wire_body"
_PLACE = re.compile(r"`\$\.?(.*)`$")


def reads(body: type[Struct]) -> dict[str, Any]:
    """The `opt` of a route whose body is this Struct."""
    return {_BODY: body}


class WireRequest(ApiRequest):
    """A request whose JSON is the Struct that its route reads."""

    async def json(self) -> Any:
        """The decoded body. Raises InvalidInput with the place of a mistake."""
        decoder = _decoder(request_context.route_options(self.scope)[_BODY])
        body = await self.body()
        try:
            return decoder.decode(body)
        except RecursionError:
            raise InvalidInput.at("body", "the JSON is nested too deeply") from None
        except msgspec.ValidationError as error:
            place = _PLACE.search(str(error))
            raise InvalidInput.at(*located(place[1] if place else "", str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidInput.at("body", str(error)) from None


@cache
def _decoder(body: type[Struct]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(body)
