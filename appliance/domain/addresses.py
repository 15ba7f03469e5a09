"""IP addresses of clients: parsing, and the key under which limits count a client."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# A provider assigns at least a /64 to each IPv6 customer (RFC 6177).
_IPV6_CLIENT_BITS = 64
_MAX_CHARACTERS = 64


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address, with IPv4-mapped IPv6 as IPv4; None if `text` is not an address."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def client_network(text: str) -> str:
    """One key per client: its IPv4 address or its IPv6 /64 network; other text as it is."""
    address = parse_address(text)
    if address is None:
        return text[:_MAX_CHARACTERS]
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _IPV6_CLIENT_BITS), strict=False))
    return str(address)
