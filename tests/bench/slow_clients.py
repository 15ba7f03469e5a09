"""Another address's latency while one address holds as many hostile connections as it can.

    python -m tests.bench.slow_clients [--connections 1000] [--seconds 10] [--kinds silent ...]

Hostile clients run in a process of their own at 127.0.0.2 and reconnect as soon as they are
disconnected. They would not share the server's processors, so that the server has the first
processor to itself, and all clients the last one, where the hostile ones have a low priority.
Kinds: silent (send nothing), header (one byte of a header at a time), body (one byte of a
login's body at a time), unread (ask for a large answer and read nothing), reconnect (connect
and disconnect 10,000 times a second). A client at 127.0.0.1 sends an authenticated GET fifty times
a second, every tenth over a new connection. Prints p50 and p99 before, during and after each
kind, the server's memory and share of a processor, and one line of JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from tests.bench.hostile_clients import FIRST_BYTES
from tests.support.server_process import ServerProcess, running_server

_PACE_S = 0.02
_FRESH_EVERY = 10
_TIMEOUT_S = 30.0


class Latency(Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float
    failures: int


class MeasuredClient:
    """Sends an authenticated GET at a fixed pace and measures each."""

    def __init__(self, url: str, key: str) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        head = f"GET /api/v1/auth/status HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        self._request = f"{head}Authorization: Bearer {key}\r\n\r\n".encode()

    async def measure(self, seconds: float) -> Latency:
        times: list[float] = []
        failures, sent = 0, 0
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    if streams is None or sent % _FRESH_EVERY == 0:
                        if streams is not None:
                            streams[1].close()
                        streams = await asyncio.open_connection(*self._address)
                    sent += 1
                    await self._ask(*streams)
                times.append(time.perf_counter() - began)
            except (OSError, EOFError, TimeoutError, ValueError):
                failures += 1
                streams = None
            await asyncio.sleep(max(0.0, _PACE_S - (time.perf_counter() - began)))
        if streams is not None:
            streams[1].close()
        times.sort()
        p50, p99 = (times[int(len(times) * share)] * 1000 for share in (0.5, 0.99))
        return Latency(p50, p99, failures)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0]))
        if not head.startswith(b"http/1.1 200"):
            raise ValueError(head)


@asynccontextmanager
async def _attackers(kind: str, url: str, connections: int) -> AsyncGenerator[list[int], None]:
    """Hostile clients in a process; the list grows by their connections of each second."""
    parts = urlsplit(url)
    words = [kind, str(parts.hostname), str(parts.port), str(connections)]
    attacker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.hostile_clients", *words),
        stdout=asyncio.subprocess.PIPE,
    )
    assert attacker.stdout is not None
    made: list[int] = []

    async def read(lines: asyncio.StreamReader) -> None:
        async for line in lines:
            made.append(int(line))

    reading = asyncio.create_task(read(attacker.stdout))
    try:
        yield made
    finally:
        attacker.kill()
        await attacker.wait()
        await reading


@contextmanager
def _on_processor(number: int) -> Generator[None, None, None]:
    """This process, and those that it starts meanwhile, run on one processor."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def resident_mib(server: ServerProcess) -> float:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def processor_seconds(server: ServerProcess) -> float:
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def bench(kinds: list[str], connections: int, seconds: float) -> None:
    *_, last = processors = sorted(os.sched_getaffinity(0))
    with (
        tempfile.TemporaryDirectory() as folder,
        _on_processor(processors[0]),
        running_server(Path(folder) / "data", None) as server,
        _on_processor(last),
    ):
        client = MeasuredClient(server.url, await asyncio.to_thread(server.make_key))
        await client.measure(2)
        results: dict[str, Any] = {}
        for kind in kinds:
            memory = resident_mib(server)
            before = await client.measure(seconds)
            async with _attackers(kind, server.url, connections) as made:
                await asyncio.sleep(4)
                used = processor_seconds(server)
                during = await client.measure(seconds)
                busy = (processor_seconds(server) - used) / seconds
                peak = resident_mib(server)
            await asyncio.sleep(1)
            after = await client.measure(seconds / 2)
            rate = max(made, default=0)
            for name, found in (("before", before), ("during", during), ("after", after)):
                print(
                    f"{kind:10} {name:7} p50 {found.p50:6.2f}  p99 {found.p99:7.2f} ms"
                    f"  failures {found.failures}"
                )
            ratio = during.p99 / before.p99
            print(
                f"{kind:10} p99 x {ratio:.2f}; at most {rate} connections/s"
                f"; memory {memory:.0f} -> {peak:.0f} MiB; processor {busy:.0%}"
            )
            results[kind] = {"before": before, "during": during, "after": after}
            results[kind] |= {
                "ratio": ratio,
                "connections_per_s": rate,
                "mib": [memory, peak],
                "busy": busy,
            }
        plain = {
            kind: {
                name: {f: getattr(value, f) for f in value.__struct_fields__}
                if isinstance(value, Latency)
                else value
                for name, value in found.items()
            }
            for kind, found in results.items()
        }
        print(json.dumps({"bench": "slow_clients", "connections": connections, "kinds": plain}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--kinds", nargs="+", choices=list(FIRST_BYTES), default=list(FIRST_BYTES))
    chosen = parser.parse_args()
    asyncio.run(bench(chosen.kinds, chosen.connections, chosen.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
