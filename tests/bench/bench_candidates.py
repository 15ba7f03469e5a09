"""Wall time of eight candidates for one prompt beside that of one candidate, same engine.

    python -m tests.bench.bench_candidates --model FILE [--rounds 5] [--tokens 96]

Each round asks a new question, once as one candidate and once as eight that differ in
their seed; one user asks all. The figure is the median over alternating rounds of the
time until the last candidate has ended. Prints a line and, last, one line of JSON.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median

from appliance.domain.messages import CompletionRequest, Message, MessageRole, Sampling
from appliance.spi.host import usable_cpus
from tests.bench.llama_server import MODEL, Ours, running_ours

CANDIDATES = 8
# A task as the product's agents put it: some files, then what to do.
_FILE = "def area(width, height):\n    return width * height\n\n\n" * 24


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96, help="new tokens of each candidate")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    chosen = parser.parse_args()
    asyncio.run(_bench(chosen.model.resolve(), chosen.rounds, chosen.tokens, chosen.threads))
    return 0


async def _bench(model: Path, rounds: int, tokens: int, threads: int) -> None:
    seconds: dict[int, list[float]] = {1: [], CANDIDATES: []}
    async with running_ours(model, threads) as ours:
        await _round(ours, "warm", 1, tokens)
        for number in range(rounds):
            counts = list(seconds)
            for count in counts if number % 2 else reversed(counts):
                name = f"{number}-{count}"
                seconds[count].append(await _round(ours, name, count, tokens))
    one, many = median(seconds[1]), median(seconds[CANDIDATES])
    print(f"one {one:.2f} s, {CANDIDATES} candidates {many:.2f} s, {many / one:.2f} x")
    line = {"bench": "candidates", "model": model.name, "threads": threads, "tokens": tokens}
    print(json.dumps(line | {"one_s": one, "candidates_s": many, "ratio": many / one}))


async def _round(ours: Ours, name: str, count: int, tokens: int) -> float:
    """Seconds until all candidates of one question have ended."""
    text = f"Module {name}.\n\n{_FILE}\nAdd a function for the volume, with tests."
    messages = (Message(MessageRole.USER, text),)
    started = time.monotonic()
    requests = (
        CompletionRequest(MODEL, messages, Sampling(seed=seed), tokens, owner="user:1")
        for seed in range(count)
    )
    await asyncio.gather(*(ours.finish(request) for request in requests))
    return time.monotonic() - started


if __name__ == "__main__":
    sys.exit(main())
