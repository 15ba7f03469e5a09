"""The client's address and scheme behind trusted reverse proxies (X-Forwarded-*)."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from litestar.types import HTTPScope, WebSocketScope

from appliance.domain.addresses import parse_address
from appliance.errors import ConfigError

_FORWARDED_FOR, _FORWARDED_PROTO = b"x-forwarded-for", b"x-forwarded-proto"
_SCHEMES = frozenset({"http", "https"})

Address = IPv4Address | IPv6Address


class TrustedProxies:
    """Addresses and networks of proxies. Raises ConfigError if one is malformed."""

    def __init__(self, names: Iterable[str]) -> None:
        self._networks = [_parse_network(name) for name in names]

    def apply(self, scope: HTTPScope | WebSocketScope) -> None:
        """Replace client and scheme of a request by those that a trusted proxy forwarded.

        The headers of other clients are ignored.
        """
        client = scope["client"]
        peer = _parse_address(client[0]) if self._networks and client else None
        if peer is None or not self._trusts(peer):
            return
        scope["client"] = (str(self._find_caller(peer, _list_header(scope, _FORWARDED_FOR))), 0)
        schemes = _list_header(scope, _FORWARDED_PROTO)
        if scope["type"] == "http" and schemes and schemes[-1].lower() in _SCHEMES:
            scope["scheme"] = schemes[-1].lower()

    def trusts(self, text: str) -> bool:
        """Whether an address is one of these proxies."""
        address = _parse_address(text) if self._networks else None
        return address is not None and self._trusts(address)

    def _find_caller(self, peer: Address, forwarded_for: list[str]) -> Address:
        """The last address that is not a trusted proxy; entries before it can be forged."""
        for name in reversed(forwarded_for):
            address = _parse_address(name)
            if address is None:
                return peer
            peer = address
            if not self._trusts(peer):
                return peer
        return peer

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _parse_network(name: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(name.strip())
    except ValueError as error:
        raise ConfigError(
            f"server.trusted_proxies: {name!r} is neither an address nor a network: {error}"
        ) from None


def _parse_address(text: str) -> Address | None:
    """Parse an entry, which may have a port."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    return parse_address(text)


def _list_header(scope: HTTPScope | WebSocketScope, name: bytes) -> list[str]:
    """The entries of a comma-separated header; it may occur several times."""
    lines = (value.decode("latin-1") for key, value in scope["headers"] if key == name)
    return [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
