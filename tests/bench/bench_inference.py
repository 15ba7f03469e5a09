"""Tokens per second of our engine and of llama.cpp's own server, at 1, 4 and 8 clients.

    python -m tests.bench.bench_inference --model FILE [--rounds 5] [--tokens 96]
                                          [--peer server|library]

The peer `library` is llama-cpp-python's server instead, at 8 clients.

Both get the same file, threads, sampling, lengths and questions, in alternating rounds;
the figure is the median over the rounds of (tokens written by all clients / wall time),
as each side counts its own tokens. Each client is a user of its own: both sides may
start from what an earlier question of the client has in common with the next. While one
side works, the other is idle. Prints a table and, last, one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from appliance.spi.host import usable_cpus
from tests.bench.llama_server import SETTLE_S, running_library, running_ours, running_peer

PEERS = {"server": (running_peer, (1, 4, 8)), "library": (running_library, (8,))}
Ask = Callable[[str, int, int], Awaitable[int]]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of each answer")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    parser.add_argument("--peer", choices=PEERS, default="server")
    chosen = parser.parse_args()
    model = chosen.model.resolve()
    asyncio.run(_bench(model, chosen.rounds, chosen.tokens, chosen.threads, chosen.peer))
    return 0


async def _bench(model: Path, rounds: int, tokens: int, threads: int, against: str) -> None:
    running, loads = PEERS[against]
    async with running_ours(model, threads) as ours, running(model, threads) as peer:
        print(f"peer: {peer.version}; {threads} threads, {rounds} rounds, {tokens} tokens")
        results = [await _compare(ours.ask, peer.ask, clients, rounds, tokens) for clients in loads]
        line: dict[str, Any] = {"bench": "inference", "peer": peer.version}
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
    await asyncio.sleep(SETTLE_S)
    started = time.monotonic()
    asked = [
        ask(f"Tell a very long story, number {number}.{client}.", client, tokens)
        for client in range(clients)
    ]
    written = sum(await asyncio.gather(*asked))
    return written / (time.monotonic() - started)


if __name__ == "__main__":
    sys.exit(main())
