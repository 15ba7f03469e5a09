"""Memory, CPU and latency of many open feeds of one user on one server.

    python -m tests.bench.bench_feeds [--feeds 1000] [--idle 30]

Opens server-sent streams of /api/v1/events, measures what they cost while nothing happens, then
submits a task, five times: the latency is from the request to the arrival of the task's first
event at a feed. Client and server share the machine. Prints, last, one line of JSON.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from tests.support import plugin_provider
from tests.support.engines import resident
from tests.support.server_process import ServerProcess, running_server

MIB = 1024 * 1024
ROUNDS = 5
DEADLINE_S = 120
START = b'"type":"start"'


class Feed:
    """One open stream of events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, server: ServerProcess) -> "Feed":
        address = urlsplit(server.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            b"GET /api/v1/events HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer %s\r\n\r\n"
            % str(server.key).encode()
        )
        await reader.readuntil(b'"type":"connected"')
        return cls(reader, writer)

    async def wait_for_task(self) -> float:
        """The time at which the first event of a task arrives."""
        await self._reader.readuntil(START)
        return time.perf_counter()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feeds", type=int, default=1000)
    parser.add_argument("--idle", type=float, default=30.0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        installed = plugin_provider.install(Path(folder) / "plugins")
        limit = str(2 * chosen.feeds)
        env = installed | {
            "MONKEY_CODER__SERVER__CONNECTIONS_PER_ADDRESS": limit,
            "MONKEY_CODER__SERVER__CONNECTIONS": str(4 * chosen.feeds),
            "MONKEY_CODER__LIMITS__REQUESTS_PER_MINUTE": limit,
            "MONKEY_CODER__LIMITS__BURST": limit,
        }
        with running_server(Path(folder) / "data", None, **env) as server:
            server.make_key()
            server.wait_ready()
            asyncio.run(_bench(server, chosen.feeds, chosen.idle))
    return 0


async def _bench(server: ServerProcess, number: int, idle_s: float) -> None:
    assert server.process is not None
    pid = server.process.pid
    cpu_without = await _cpu_share(pid, idle_s)
    before = resident(pid)
    async with asyncio.timeout(DEADLINE_S):
        feeds = [await Feed.open(server) for _ in range(number)]
    cpu_idle = await _cpu_share(pid, idle_s)
    kib = (resident(pid) - before) / number / 1024
    latencies = [await _measure_event(server, feeds) for _ in range(ROUNDS)]
    first, median, last = (statistics.median(each) for each in zip(*latencies, strict=True))
    for feed in feeds:
        feed.writer.close()
    print(
        f"{number} feeds: {kib:.0f} KiB each; idle CPU {cpu_idle:.1%} of one core "
        f"({cpu_without:.1%} without feeds); one event to all: first {first * 1000:.0f} ms, "
        f"median {median * 1000:.0f} ms, last {last * 1000:.0f} ms"
    )
    figures = {"kib_per_feed": kib, "cpu_idle": cpu_idle, "cpu_without": cpu_without}
    seconds = {"first_s": first, "median_s": median, "last_s": last}
    print(json.dumps({"bench": "feeds", "feeds": number} | figures | seconds))


async def _measure_event(server: ServerProcess, feeds: list[Feed]) -> tuple[float, float, float]:
    """Seconds from a submission until the first, the median and the last feed have its event."""
    waiting = [asyncio.create_task(feed.wait_for_task()) for feed in feeds]
    await asyncio.sleep(0.5)
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        started = time.perf_counter()
        request = asyncio.create_task(client.post("/api/v1/execute", json={"prompt": "double(x)"}))
        async with asyncio.timeout(DEADLINE_S):
            arrived = sorted(await asyncio.gather(*waiting))
        await request
    return arrived[0] - started, statistics.median(arrived) - started, arrived[-1] - started


async def _cpu_share(pid: int, seconds: float) -> float:
    """The share of one core that the process uses over a time."""
    used, started = _cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    return (_cpu_s(pid) - used) / (time.monotonic() - started)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    raise SystemExit(main())
