"""What a chat completion costs on its way through the server to an upstream, and through LiteLLM.

    python -m tests.bench.bench_gateway [--rounds 5] [--seconds 4] [--connections 16]

The upstream answers at once, so that all that is measured is the gateway. Both gateways
run with one worker, authenticate the caller, and are asked in alternating rounds, while
the other is idle. Printed: requests per second over `connections` connections, and what
the gateway adds to the median latency of one connection. Prints a table and, last, one
line of JSON.
"""

import argparse
import asyncio
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from msgspec import Struct

from tests.bench.http_load import Load, load
from tests.bench.peers import peer_python, peer_version
from tests.support.server_process import running_server

_START_S = 180.0
_BODY = {"messages": [{"role": "user", "content": "How much is two plus two?"}], "max_tokens": 16}


class Side(Struct, frozen=True):
    """Where to send the load, and as whom."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=16)
    chosen = parser.parse_args()
    asyncio.run(_bench(chosen.rounds, chosen.seconds, chosen.connections))
    return 0


async def _bench(rounds: int, seconds: float, connections: int) -> None:
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(_upstream())
        ours = await stack.enter_async_context(_ours(direct.url))
        peer, version = await stack.enter_async_context(_peer(direct.url))
        print(f"peer: litellm {version}, one worker; {rounds} rounds, {connections} connections")
        sides = {"direct": direct, "ours": ours, "peer": peer}
        many = await _rounds(sides, rounds, connections, seconds)
        one = await _rounds(sides, rounds, 1, seconds / 2)
    rates = {name: median(each.requests_per_second for each in many[name]) for name in sides}
    p50 = {name: median(each.p50_ms for each in one[name]) for name in sides}
    added = {name: p50[name] - p50["direct"] for name in ("ours", "peer")}
    ratio = rates["ours"] / rates["peer"]
    print(f"ours {rates['ours']:.0f}/s, peer {rates['peer']:.0f}/s, {ratio:.1f} x")
    print(f"added p50: ours {added['ours']:.2f} ms, peer {added['peer']:.2f} ms")
    line: dict[str, Any] = {"bench": "gateway", "peer": f"litellm {version}", "ratio": ratio}
    line |= {"requests_per_second": rates, "added_p50_ms": added, "connections": connections}
    line["failures"] = {name: sum(each.failures for each in many[name]) for name in sides}
    print(json.dumps(line))


async def _rounds(
    sides: Mapping[str, Side], rounds: int, connections: int, seconds: float
) -> dict[str, list[Load]]:
    found: dict[str, list[Load]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        order = list(sides.items())
        for name, side in order if number % 2 else reversed(order):
            run = await load(
                side.url, side.headers, side.body, connections=connections, seconds=seconds
            )
            if number:  # the first one warms up
                found[name].append(run)
    return found


@asynccontextmanager
async def _upstream() -> AsyncGenerator[Side, None]:
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.upstream"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    try:
        address = (await asyncio.wait_for(server.stdout.readline(), 30)).decode().strip()
        yield Side(f"{address}/v1/chat/completions", {}, _request_body("upstream"))
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def _ours(upstream: str) -> AsyncGenerator[Side, None]:
    base = upstream.removesuffix("/chat/completions")
    env = {
        "MONKEY_CODER__AUTH__DEV_KEYS": "true",
        "MONKEY_CODER__LIMITS__REQUESTS_PER_MINUTE": "100000000",
        "MONKEY_CODER__LIMITS__BURST": "1000000",
        "MONKEY_CODER__PROVIDERS__OPENAI__BASE_URL": base,
        "MONKEY_CODER__PROVIDERS__OPENAI__API_KEY": "upstream-key",
        "MONKEY_CODER__PROVIDERS__OPENAI__MODELS": "upstream",
    }
    # A server that prepares its sandbox meanwhile would be measured at two things.
    env["MONKEY_CODER__SANDBOX__LANGUAGES"] = "python"
    with (
        tempfile.TemporaryDirectory() as folder,
        running_server(Path(folder) / "data", None, **env) as server,
    ):
        key = await asyncio.to_thread(server.make_key)
        url = f"{server.url}/v1/chat/completions"
        yield Side(url, {"Authorization": f"Bearer {key}"}, _request_body("openai/upstream"))


@asynccontextmanager
async def _peer(upstream: str) -> AsyncGenerator[tuple[Side, str], None]:
    python = await asyncio.to_thread(peer_python, "litellm", "litellm[proxy]")
    version = await asyncio.to_thread(peer_version, python, "litellm")
    key, port = f"sk-{secrets.token_hex(8)}", _free_port()
    target = {
        "model": "openai/upstream",
        "api_base": upstream.removesuffix("/chat/completions"),
        "api_key": "upstream-key",
    }
    settings = {"model_list": [{"model_name": "upstream", "litellm_params": target}]}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(json.dumps(settings))  # YAML holds JSON
        words = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
        server = await asyncio.create_subprocess_exec(
            *(str(python.with_name("litellm")), *words, "--num_workers", "1"),
            env={**os.environ, "LITELLM_MASTER_KEY": key, "LITELLM_LOG": "ERROR"},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await _until_alive(f"http://127.0.0.1:{port}/health/liveliness")
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            yield Side(url, {"Authorization": f"Bearer {key}"}, _request_body("upstream")), version
        finally:
            server.kill()
            await server.wait()


async def _until_alive(url: str) -> None:
    deadline = time.monotonic() + _START_S
    async with httpx.AsyncClient() as client:
        while True:
            try:
                (await client.get(url, timeout=5)).raise_for_status()
            except httpx.HTTPError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)
            else:
                return


def _request_body(model: str) -> bytes:
    return json.dumps({**_BODY, "model": model}).encode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
