"""Time to first token behind a shared prefix of 1,000 tokens: ours and llama.cpp's server.

    python -m tests.bench.bench_prefix --model FILE [--rounds 7]

One user asks different short questions under the same long system message. The first
request, which computes the prefix, is not counted on either side. The figure is the
median over alternating rounds of the time until a one-token answer has ended. Prints a
line and, last, one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from appliance.spi.host import usable_cpus
from tests.bench.llama_server import SETTLE_S, running_ours, running_peer

Ask = Callable[[str], Awaitable[int]]
# With the usual tokenizers a word is a token, and its space part of it.
_SYSTEM = " ".join(["Rule", *(["never guess what you can look up"] * 143)])


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=usable_cpus())
    chosen = parser.parse_args()
    asyncio.run(_bench(chosen.model.resolve(), chosen.rounds, chosen.threads))
    return 0


async def _bench(model: Path, rounds: int, threads: int) -> None:
    async with running_ours(model, threads) as ours, running_peer(model, threads) as peer:
        mine, theirs = await _compare(
            lambda text: ours.ask(text, 1, 1, system=_SYSTEM),
            lambda text: peer.ask(text, 1, 1, system=_SYSTEM),
            rounds,
        )
        version = peer.version
    print(f"ours {1000 * mine:.1f} ms, {version} {1000 * theirs:.1f} ms, {mine / theirs:.2f} x")
    line = {"bench": "prefix", "peer": version, "model": model.name, "threads": threads}
    print(json.dumps(line | {"ours_s": mine, "peer_s": theirs, "ratio": mine / theirs}))


async def _compare(ours: Ask, peer: Ask, rounds: int) -> tuple[float, float]:
    """Median seconds of each side."""
    await ours("First of all?")
    await peer("First of all?")
    seconds: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        sides = list(zip((ours, peer), seconds, strict=True))
        for ask, taken in sides if number % 2 else reversed(sides):
            await asyncio.sleep(SETTLE_S)
            started = time.monotonic()
            await ask(f"Question {number}: what now?")
            taken.append(time.monotonic() - started)
    return median(seconds[0]), median(seconds[1])


if __name__ == "__main__":
    sys.exit(main())
