"""The connections that were accepted at a port, found among the descriptors of this process."""

from collections.abc import Collection, Mapping

from appliance.domain.addresses import client_network
from appliance.server.connection import Connection
from appliance.server.open_sockets import OpenSockets


class ConnectionTable:
    """Connections by descriptor and by address; `refresh` keeps it true."""

    def __init__(self, sockets: OpenSockets, port: int) -> None:
        self._sockets = sockets
        self._port = port
        self._connections: dict[int, Connection] = {}
        self._by_address: dict[str, dict[int, Connection]] = {}
        self._ignored: dict[int, bytes] = {}
        self.added = 0
        """Number of connections found so far."""

    def __len__(self) -> int:
        return len(self._connections)

    @property
    def largest(self) -> int:
        """The number of connections of the address that has most."""
        return max(map(len, self._by_address.values()), default=0)

    def by_address(self) -> Mapping[str, Collection[Connection]]:
        return {address: each.values() for address, each in self._by_address.items()}

    def refresh(self, descriptor: int, now: float) -> Connection | None:
        """The connection that has this descriptor now; None for any other socket or file."""
        cookie = self._sockets.cookie(descriptor)
        known = self._connections.get(descriptor)
        if known is not None:
            if known.cookie == cookie:
                return known
            self._remove(known)
        if cookie is None or self._ignored.get(descriptor) == cookie:
            return None
        return self._add(descriptor, cookie, now)

    def ignore(self, connection: Connection) -> None:
        """Forget a connection that was ended: its server is about to close it."""
        self._remove(connection)
        self._ignored[connection.descriptor] = connection.cookie

    def _add(self, descriptor: int, cookie: bytes, now: float) -> Connection | None:
        peer = self._sockets.peer(descriptor, self._port)
        if peer is None:
            self._ignored[descriptor] = cookie
            return None
        connection = Connection(descriptor, cookie, peer, client_network(peer[0]), now)
        self._connections[descriptor] = connection
        self._by_address.setdefault(connection.address, {})[descriptor] = connection
        self.added += 1
        return connection

    def _remove(self, connection: Connection) -> None:
        del self._connections[connection.descriptor]
        others = self._by_address[connection.address]
        del others[connection.descriptor]
        if not others:
            del self._by_address[connection.address]
