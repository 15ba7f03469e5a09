"""Hostile clients of one address, at little cost of their own: one loop over bare sockets.

    python -m tests.bench.hostile_clients KIND HOST PORT CONNECTIONS

They reconnect as soon as they are disconnected, `reconnect` at 10,000 connections a second. Prints
the connections made in each second until killed.
"""

import os
import selectors
import socket
import struct
import sys
import time

ADDRESS = "127.0.0.2"
FIRST_BYTES: dict[str, bytes] = {
    "silent": b"",
    "header": b"GET /health HTTP/1.1\r\nHost: a\r\n",
    "body": b"POST /api/v1/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n",
    "unread": b"GET /api/docs/static/swagger-ui-bundle.js HTTP/1.1\r\nHost: a\r\n\r\n",
    "reconnect": b"",
}
_EACH_SECOND = {"header": b"x", "body": b" "}
_RECONNECTS_PER_S = 10_000
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 s
_PAUSE_S = 0.001


class HostileClients:
    """Keeps `connections` of a kind open to a server."""

    def __init__(self, kind: str, server: tuple[str, int], connections: int) -> None:
        self.made = 0
        self._kind = kind
        self._server = server
        self._sockets: set[socket.socket] = set()
        self._events = selectors.DefaultSelector()
        for _ in range(connections):
            self._connect()

    def run(self) -> None:
        started, reported = time.monotonic(), 0
        while True:
            elapsed = time.monotonic() - started
            if elapsed >= 1:
                print(self.made - reported, flush=True)
                started, reported = started + elapsed, self.made
                self._dribble()
            elif self._kind == "reconnect" and self.made - reported > elapsed * _RECONNECTS_PER_S:
                time.sleep(_PAUSE_S)
            else:
                self._handle_events()

    def _handle_events(self) -> None:
        for key, mask in self._events.select(0.05):
            held = key.fileobj
            assert isinstance(held, socket.socket)
            try:
                still_open = self._begin(held) if mask & selectors.EVENT_WRITE else _read(held)
            except OSError:
                still_open = False
            if not still_open:
                self._reconnect(held)

    def _connect(self) -> None:
        held = socket.socket()
        held.setblocking(False)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        if self._kind == "unread":
            held.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        held.bind((ADDRESS, 0))
        held.connect_ex(self._server)
        self._sockets.add(held)
        self._events.register(held, selectors.EVENT_WRITE)

    def _begin(self, held: socket.socket) -> bool:
        """Send the first bytes once connected; False to disconnect."""
        if held.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            return False
        self.made += 1
        held.send(FIRST_BYTES[self._kind])
        if self._kind == "unread":
            self._events.unregister(held)
        else:
            self._events.modify(held, selectors.EVENT_READ)
        return self._kind != "reconnect"

    def _dribble(self) -> None:
        if self._kind == "unread":  # only sending shows that a connection was ended
            piece = b"G"
        elif self._kind in _EACH_SECOND:
            piece = _EACH_SECOND[self._kind]
        else:
            return
        for held in list(self._sockets):
            try:
                held.send(piece)
            except BlockingIOError:
                continue
            except OSError:
                self._reconnect(held)

    def _reconnect(self, held: socket.socket) -> None:
        if held in self._events.get_map():
            self._events.unregister(held)
        self._sockets.discard(held)
        held.close()
        self._connect()


def _read(held: socket.socket) -> bool:
    try:
        return bool(held.recv(65536))
    except BlockingIOError:
        return True


def main() -> int:
    kind, host, port, connections = sys.argv[1:]
    os.nice(10)
    HostileClients(kind, (host, int(port)), int(connections)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
