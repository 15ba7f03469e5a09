"""ASGI layer around the application: which connections have a request in progress."""

from typing import Any, cast

from litestar.types import ASGIApp, Receive, Scope, Send

from appliance.api.http import request_context
from appliance.server.open_sockets import Peer

_MAX_ADVANCED = 65536  # enough for a second; without a guard nothing takes them


class ConnectionRequests:
    """Knows connections by their TCP peer, whatever a proxy says about the client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._scopes: dict[Peer, Scope] = {}
        self._advanced: set[Peer] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Read here: a trusted proxy's headers replace it.
        peer: Peer | None = cast("Any", scope).get("client")
        if peer is None:
            await self._app(scope, receive, send)  # lifespan
            return
        if scope["type"] == "websocket":
            receive = self._count_messages(receive, peer)
        self._scopes[peer] = scope
        try:
            await self._app(scope, receive, send)
        finally:
            self._mark_advanced(peer)
            # A new connection may have the same peer already.
            if self._scopes.get(peer) is scope:
                del self._scopes[peer]

    def in_progress(self, peer: Peer) -> bool:
        return peer in self._scopes

    def is_served(self, peer: Peer) -> bool:
        """Whether a request is in progress that was not refused."""
        scope = self._scopes.get(peer)
        return scope is not None and not request_context.is_refused(scope)

    def is_websocket(self, peer: Peer) -> bool:
        scope = self._scopes.get(peer)
        return scope is not None and scope["type"] == "websocket"

    def take_advanced(self) -> set[Peer]:
        """Peers of which a request ended or a WebSocket message arrived since the last call."""
        advanced, self._advanced = self._advanced, set()
        return advanced

    def _mark_advanced(self, peer: Peer) -> None:
        if len(self._advanced) < _MAX_ADVANCED:
            self._advanced.add(peer)

    def _count_messages(self, receive: Receive, peer: Peer) -> Receive:
        async def receive_counted() -> Any:
            message = await receive()
            self._mark_advanced(peer)
            return message

        return receive_counted
