"""A load of equal HTTP requests over persistent connections, at little cost of its own."""

import asyncio
import time
from collections.abc import Mapping
from statistics import median
from urllib.parse import urlsplit

from msgspec import Struct

_HEADERS_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
_DEADLINE_S = 120.0


class Load(Struct, frozen=True):
    """Results of one load; latencies in milliseconds."""

    requests_per_second: float
    p50_ms: float
    failures: int


async def load(
    url: str, headers: Mapping[str, str], body: bytes, *, connections: int, seconds: float
) -> Load:
    """POST `body` again and again over so many connections, for so many seconds."""
    parts = urlsplit(url)
    asked = _request(parts.netloc, parts.path, headers, body)
    deadline = time.perf_counter() + seconds
    started = time.perf_counter()
    clients = [
        _client(parts.hostname or "", parts.port or 80, asked, deadline) for _ in range(connections)
    ]
    async with asyncio.timeout(seconds + _DEADLINE_S):
        answered = await asyncio.gather(*clients)
    took = time.perf_counter() - started
    times = [each for latencies, _ in answered for each in latencies]
    failures = sum(failed for _, failed in answered)
    if not times:
        raise RuntimeError(f"{url} answered none of the requests with 200 ({failures} failed)")
    return Load(len(times) / took, median(times) * 1000, failures)


def _request(host: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join(lines).encode() + _HEADERS_END + body


async def _client(host: str, port: int, asked: bytes, deadline: float) -> tuple[list[float], int]:
    """The seconds of each request answered with 200, and how many were answered otherwise."""
    reader, writer = await asyncio.open_connection(host, port)
    times: list[float] = []
    failed = 0
    while time.perf_counter() < deadline:
        began = time.perf_counter()
        writer.write(asked)
        head = await reader.readuntil(_HEADERS_END)
        await _skip_body(reader, head.lower())
        if head.startswith(b"HTTP/1.1 200"):
            times.append(time.perf_counter() - began)
        else:
            failed += 1
    writer.close()
    return times, failed


async def _skip_body(reader: asyncio.StreamReader, head: bytes) -> None:
    """Read what belongs to the answer: of a known length, or in chunks."""
    if _LENGTH in head:
        await reader.readexactly(int(head.split(_LENGTH, 1)[1].split(b"\r\n", 1)[0]))
        return
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        await reader.readexactly(size + 2)
    await reader.readuntil(b"\r\n")
