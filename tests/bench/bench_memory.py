"""Memory of a server and its engine over ten thousand chats.

    python -m tests.bench.bench_memory [--requests 10000] [--connections 8]

Short chats with a tiny model of random weights, each with a seed of its own, so that
none comes from the cache. Memory is what belongs to no file, of the server and of the
engine, after the first tenth and at the end. Prints, last, one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.engines import engine_of, resident
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_gguf import write_tiny_gguf

MIB = 1024 * 1024
MODEL = "tiny"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=8)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        file = write_tiny_gguf(Path(folder) / "tiny.gguf", context_tokens=2048)
        command("model", "add", file, "--in-place", "--alias", MODEL, "--data-dir", data)
        with running_server(data) as server:
            server.make_key()
            server.wait_ready()
            asyncio.run(_bench(server, chosen.requests, chosen.connections))
    return 0


async def _bench(server: ServerProcess, requests: int, connections: int) -> None:
    assert server.process is not None
    processes = {"server": server.process.pid, "engine": engine_of(server, MODEL)}
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60) as client:
        first = max(1, requests // 10)
        await _chats(client, range(first), connections)
        early = {name: resident(pid) for name, pid in processes.items()}
        started = time.monotonic()
        await _chats(client, range(first, requests), connections)
        took = time.monotonic() - started
    late = {name: resident(pid) for name, pid in processes.items()}
    grown = {name: round((late[name] - early[name]) / MIB, 2) for name in processes}
    rate = (requests - first) / took
    print(f"{requests} chats at {rate:.0f}/s; grown since the first {first}: {grown} MiB")
    print(json.dumps({"bench": "memory", "requests": requests, "per_s": rate, "grown_mib": grown}))


async def _chats(client: httpx.AsyncClient, numbers: range, connections: int) -> None:
    left = iter(numbers)

    async def one_client() -> None:
        for number in left:
            asked = {"role": "user", "content": f"number {number}"}
            body = {"model": MODEL, "messages": [asked], "max_tokens": 4, "seed": number}
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()

    await asyncio.gather(*(one_client() for _ in range(connections)))


if __name__ == "__main__":
    sys.exit(main())
