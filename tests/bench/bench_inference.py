"""Tokens per second of our engine and of llama.cpp's own server, at 1, 4 and 8 clients.

    python -m tests.bench.bench_inference --model FILE [--rounds 5] [--tokens 96]

Both get the same file, threads, sampling, lengths and questions, in alternating rounds;
the figure is the median over the rounds of (tokens written by all clients / wall time),
as each side counts its own tokens. The peer is `xllamacpp` over HTTP, installed into an
environment of its own under the user's cache folder. While one side works, the other
is idle. Prints a table and, last, one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from appliance.domain.messages import CompletionRequest, Message, MessageRole, Sampling
from plugins.providers.llama_cpp.machine import usable_cpus
from tests.bench.peers import peer_python
from tests.support.llama_box import complete, provider_for

CLIENTS = (1, 4, 8)
CONTEXT = 8192
MODEL = "bench"
Ask = Callable[[str, int, int], Awaitable[int]]

_PEER = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
for name, value in json.loads(sys.argv[1]).items():
    setattr(params, name, value)
params.model.path = sys.argv[2]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
print(json.dumps([server.listening_address, xllamacpp.__version__]), flush=True)
sys.stdin.read()
"""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of each answer")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    chosen = parser.parse_args()
    asyncio.run(_bench(chosen.model.resolve(), chosen.rounds, chosen.tokens, chosen.threads))
    return 0


async def _bench(model: Path, rounds: int, tokens: int, threads: int) -> None:
    async with _ours(model, threads) as ours, _peer(model, threads) as (peer, version):
        print(f"peer: xllamacpp {version}; {threads} threads, {rounds} rounds, {tokens} tokens")
        results = [await _compare(ours, peer, clients, rounds, tokens) for clients in CLIENTS]
    line: dict[str, Any] = {"bench": "inference", "peer": f"xllamacpp {version}"}
    line |= {"model": model.name, "threads": threads, "tokens": tokens, "results": results}
    print(json.dumps(line))


async def _compare(
    ours: Ask, peer: Ask, clients: int, rounds: int, tokens: int
) -> dict[str, float]:
    speeds: dict[str, list[float]] = {"ours": [], "peer": []}
    await _round(ours, clients, tokens, 1000)
    await _round(peer, clients, tokens, 1000)
    for number in range(rounds):
        sides = [("ours", ours), ("peer", peer)]
        for name, ask in sides if number % 2 else reversed(sides):
            speeds[name].append(await _round(ask, clients, tokens, number))
    mine, theirs = median(speeds["ours"]), median(speeds["peer"])
    print(f"{clients} clients: ours {mine:.1f}/s, peer {theirs:.1f}/s, {mine / theirs:.2f} x")
    return {"clients": clients, "ours": mine, "peer": theirs, "ratio": mine / theirs}


async def _round(ask: Ask, clients: int, tokens: int, number: int) -> float:
    """Tokens per second of all clients together."""
    started = time.monotonic()
    asked = [
        ask(f"Tell a very long story, number {number}.{client}.", client, tokens)
        for client in range(clients)
    ]
    written = sum(await asyncio.gather(*asked))
    return written / (time.monotonic() - started)


@asynccontextmanager
async def _ours(model: Path, threads: int) -> AsyncGenerator[Ask, None]:
    with tempfile.TemporaryDirectory() as folder:
        provider, _ = provider_for(
            Path(folder), {MODEL: model}, threads=threads, context_tokens=CONTEXT
        )

        async def ask(text: str, seed: int, tokens: int) -> int:
            messages = (Message(MessageRole.USER, text),)
            request = CompletionRequest(MODEL, messages, Sampling(seed=seed), tokens)
            _, finished = await complete(provider, request)
            return finished.usage.completion_tokens

        await provider.load(MODEL)
        yield ask
        await provider.close()


@asynccontextmanager
async def _peer(model: Path, threads: int) -> AsyncGenerator[tuple[Ask, str], None]:
    params = {"n_parallel": max(CLIENTS), "n_ctx": CONTEXT, "port": 0, "kv_unified": True}
    python = await asyncio.to_thread(peer_python, "xllamacpp", "xllamacpp")
    server = await asyncio.create_subprocess_exec(
        *(str(python), "-c", _PEER, json.dumps(params), str(model), str(threads)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        line = await asyncio.wait_for(server.stdout.readline(), 120)
        address, version = json.loads(line)
        async with httpx.AsyncClient(base_url=address, timeout=600) as client:
            yield _over_http(client), version
    finally:
        server.kill()
        await server.wait()


def _over_http(client: httpx.AsyncClient) -> Ask:
    usual = Sampling()

    async def ask(text: str, seed: int, tokens: int) -> int:
        body = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "temperature": usual.temperature,
            "top_k": usual.top_k,
            "top_p": usual.top_p,
            "min_p": usual.min_p,
            "repeat_penalty": usual.repeat_penalty,
            "seed": seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
        return int(json.loads(lines[-1].removeprefix("data: "))["usage"]["completion_tokens"])

    return ask


if __name__ == "__main__":
    sys.exit(main())
