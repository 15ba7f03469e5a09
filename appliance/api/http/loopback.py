"""Whether a request was really made on this machine, and not only relayed from it."""

import ipaddress
from urllib.parse import urlsplit

from litestar.types import Scope

from appliance.api.http import request_context

_RELAYED = (
    *(b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
    *(b"x-real-ip", b"via"),
)


def direct_address(scope: Scope) -> str:
    """The caller's address; "" for what a proxy or a page of another site sent.

    Both reach the box from a loopback address: a reverse proxy beside it, and a browser
    whose page had its name resolved to this machine (DNS rebinding).
    """
    if any(request_context.header(scope, name) is not None for name in _RELAYED):
        return ""
    origin = request_context.header(scope, b"origin")
    if origin is not None and not _is_local(urlsplit(origin).hostname):
        return ""
    host = request_context.header(scope, b"host")
    if host is not None and not _is_local(_hostname(host)):
        return ""
    return request_context.client_address(scope)


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_local(name: str | None) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False
