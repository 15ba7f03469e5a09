"""Who calls through a reverse proxy, told by the proxies that the administrator trusts."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from litestar.types import HTTPScope, WebSocketScope

from appliance.errors import ConfigError

_FOR, _PROTO = b"x-forwarded-for", b"x-forwarded-proto"
_SCHEMES = frozenset({"http", "https"})

Address = IPv4Address | IPv6Address


class TrustedProxies:
    """Proxies by address or network. Raises ConfigError for what is neither."""

    def __init__(self, names: Iterable[str]) -> None:
        self._networks = [_network(name) for name in names]

    def apply(self, scope: HTTPScope | WebSocketScope) -> None:
        """Put the true caller and scheme into a request that a trusted proxy passed on.

        Whoever else sends these headers is taken for what they are.
        """
        client = scope["client"]
        peer = _address(client[0]) if self._networks and client else None
        if peer is None or not self._trusts(peer):
            return
        scope["client"] = (str(self._caller(peer, _values(scope, _FOR))), 0)
        schemes = _values(scope, _PROTO)
        if scope["type"] == "http" and schemes and schemes[-1].lower() in _SCHEMES:
            scope["scheme"] = schemes[-1].lower()

    def _caller(self, peer: Address, passed_on_for: list[str]) -> Address:
        """The nearest one that is no trusted proxy: what stands before it anybody may write."""
        for name in reversed(passed_on_for):
            found = _address(name)
            if found is None:
                return peer
            peer = found
            if not self._trusts(peer):
                return peer
        return peer

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _network(name: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(name.strip())
    except ValueError as error:
        raise ConfigError(
            f"server.trusted_proxies: {name!r} is no address and no network: {error}"
        ) from None


def _address(text: str) -> Address | None:
    """Some proxies add the port; IPv4 may come written as IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _values(scope: HTTPScope | WebSocketScope, name: bytes) -> list[str]:
    """The entries of a list header, all its lines together."""
    lines = (value.decode("latin-1") for key, value in scope["headers"] if key == name)
    return [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
