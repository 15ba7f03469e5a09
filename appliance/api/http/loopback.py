"""Tells requests made on this machine from requests that were relayed by it."""

import ipaddress

from litestar.types import Scope

from appliance.api.http import request_context
from appliance.api.http.origins import parse_origin

_PROXY_HEADERS = (
    *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
    *(b"x-real-ip", b"via"),
)


def unproxied_address(scope: Scope) -> str:
    """The address of the client; "" if a proxy or a page of another site sent the request.

    Both connect from a loopback address: a reverse proxy on this machine, and a local
    browser whose page's host name resolves to this machine (DNS rebinding).
    """
    if any(request_context.header(scope, name) is not None for name in _PROXY_HEADERS):
        return ""
    origin = request_context.header(scope, b"origin")
    if origin is not None and not _is_loopback_name(_hostname(origin)):
        return ""
    host = request_context.header(scope, b"host")
    if host is not None and not _is_loopback_name(_hostname(f"http://{host}")):
        return ""
    return request_context.client_address(scope)


def _hostname(origin: str) -> str | None:
    parsed = parse_origin(origin)
    return parsed and parsed.host


def _is_loopback_name(name: str | None) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
