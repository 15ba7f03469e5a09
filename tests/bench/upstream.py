"""An upstream that answers every chat completion at once with the same words.

    python -m tests.bench.upstream

Speaks just enough HTTP for a gateway in front of it; prints its address as one line and
ends with its standard input.
"""

import asyncio
import sys

_HEADERS_END = b"\r\n\r\n"
_BODY = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"upstream",'
    b'"choices":[{"index":0,"finish_reason":"stop","logprobs":null,"message":{"role":"assistant",'
    b'"content":"Four is two plus two.","refusal":null}}],"usage":{"prompt_tokens":12,'
    b'"completion_tokens":7,"total_tokens":19}}'
)
_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,'
    b'"model":"upstream","choices":[%s]%s}\n\n'
)
_STREAM = b"".join(
    [
        _CHUNK % (b'{"index":0,"delta":{"role":"assistant","content":"Four is "}}', b""),
        _CHUNK % (b'{"index":0,"delta":{"content":"two plus two."}}', b""),
        _CHUNK % (b'{"index":0,"delta":{},"finish_reason":"stop"}', b""),
        _CHUNK % (b"", b',"usage":{"prompt_tokens":12,"completion_tokens":7,"total_tokens":19}'),
        b"data: [DONE]\n\n",
    ]
)
_MODELS = b'{"object":"list","data":[{"id":"upstream","object":"model","owned_by":"bench"}]}'


class _Upstream(asyncio.Protocol):
    """One connection: requests are answered in the order in which they come."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (answer := self._next()) is not None and self._transport:
            self._transport.write(answer)

    def _next(self) -> bytes | None:
        head, has_headers, rest = self._received.partition(_HEADERS_END)
        if not has_headers:
            return None
        lowered = head.lower()
        _, has_length, length = lowered.partition(b"content-length:")
        size = int(length.split(b"\r\n", 1)[0]) if has_length else 0
        if len(rest) < size:
            return None
        body, self._received = rest[:size], rest[size:]
        if head.startswith(b"GET"):
            return _answer(_MODELS, b"application/json")
        if b'"stream":true' in body.replace(b" ", b""):
            return _answer(_STREAM, b"text/event-stream")
        return _answer(_BODY, b"application/json")


def _answer(body: bytes, kind: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Upstream, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
