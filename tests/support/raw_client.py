"""A client that sends bytes as it likes, and sees whether its connection was ended."""

import asyncio
import socket
from urllib.parse import urlsplit


class RawClient:
    """A connection from an address of this machine's loopback network."""

    def __init__(self, port: int, source: str = "127.0.0.2") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        self.socket.setblocking(False)

    @classmethod
    def to(cls, url: str, source: str = "127.0.0.2") -> "RawClient":
        return cls(urlsplit(url).port or 80, source)

    def send(self, content: bytes) -> bool:
        """False if the connection was ended; what doesn't fit is not sent."""
        try:
            self.socket.send(content)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        return True

    def is_open(self) -> bool:
        """Whether nothing says that the server closed it; reads nothing."""
        try:
            return self.socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except ConnectionError:
            return False

    async def answer(self) -> bytes:
        """What the server sends next; b"" if it closed the connection."""
        async with asyncio.timeout(20):
            try:
                return await asyncio.get_running_loop().sock_recv(self.socket, 65536)
            except ConnectionError:
                return b""

    def close(self) -> None:
        self.socket.close()
