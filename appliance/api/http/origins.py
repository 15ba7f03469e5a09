"""Origins (RFC 6454) in the requests of browsers: parsing, and comparison with this server's."""

from typing import NamedTuple
from urllib.parse import urlsplit

from litestar.types import Scope

from appliance.api.http import request_context

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HTTP_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int


def parse_origin(text: str) -> Origin | None:
    """The origin; None for `null`, other schemes and malformed text."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        return None
    return Origin(
        parts.scheme, parts.hostname, _DEFAULT_PORTS[parts.scheme] if port is None else port
    )


def is_same_origin(scope: Scope, origin: str) -> bool:
    """Whether `origin` is the scheme, host and port at which the client reached this server."""
    scheme = _HTTP_SCHEMES[scope["scheme"]]
    own = parse_origin(f"{scheme}://{request_context.header(scope, b'host') or ''}")
    return own is not None and own == parse_origin(origin)
