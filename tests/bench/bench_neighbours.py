"""Tokens per second and the times between tokens of a user, alone and beside a costly request.

    python -m tests.bench.bench_neighbours --model FILE [--seconds 8] [--only NAME ...]

The user streams answers one after another; a neighbour repeats one kind of request meanwhile.
Prints a line for each kind, and last one line of JSON.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    Sampling,
    Tool,
)
from appliance.errors import ApplianceError
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import provider_for

CONTEXT = 8192
MODEL = "bench"
ANSWER_TOKENS = 64
# The likeliest tokens are none that the grammar allows.
PUSHED = Sampling(logit_bias=tuple((token, 100.0) for token in range(300, 1300)))
WIDE = "root ::= " + " | ".join(f'[\u0400-\u04ff]{{{at},}} "{at}"' for at in range(1, 300))


def neighbours() -> dict[str, list[CompletionRequest]]:
    """By name, the requests that are kept running."""
    ask = "Tell a very long story."
    wide = OutputFormat(OutputKind.GRAMMAR, grammar=WIDE)
    words = "word " * (CONTEXT - 400)
    stops = tuple(f"{at}x" * 300 for at in range(64))
    texts = {"type": "object", "properties": {f"p{at}": {"type": "string"} for at in range(300)}}
    one = Tool("f", "", texts)
    return {
        "nobody": [],
        "chat": [chat(ask)],
        "grammar": [chat(ask, output=wide, sampling=PUSHED)],
        "7 grammars": [chat(ask, output=wide, sampling=PUSHED)] * 7,
        "logprobs": [chat(ask, sampling=Sampling(logprobs=20))],
        "stop strings": [chat(ask, sampling=Sampling(stop=stops))],
        "long prompt": [chat(f"{at} {words}", max_tokens=1) for at in range(50)][:1],
        "too long": [chat("word " * 200_000)],
        "messages": [chat(*["a"] * 9000)],
        "schema": [chat(ask, output=OutputFormat(OutputKind.SCHEMA, schema=texts))],
        "tools": [chat(ask, tools=(one,))],
    }  # fmt: skip


def chat(*texts: str, max_tokens: int = 1000, **more: Any) -> CompletionRequest:
    messages = tuple(Message(MessageRole.USER, text) for text in texts)
    return CompletionRequest(MODEL, messages, max_tokens=max_tokens, owner="neighbour", **more)


async def read_times(provider: LlamaCppProvider, seconds: float) -> list[float]:
    """When each token of the user's answers came; a break between answers."""
    times: list[float] = []
    ends_at = time.monotonic() + seconds
    number = 0
    while time.monotonic() < ends_at:
        number += 1
        message = Message(MessageRole.USER, f"Tell a long story, number {number}.")
        request = CompletionRequest(
            MODEL, (message,), Sampling(seed=number), ANSWER_TOKENS, owner="user"
        )
        async with aclosing(provider.stream(request)) as events:
            async for _ in events:
                times.append(time.monotonic())
        times.append(math.nan)
    return times


async def repeat(provider: LlamaCppProvider, request: CompletionRequest, counts: list[int]) -> None:
    while True:
        with contextlib.suppress(ApplianceError):
            async with aclosing(provider.stream(request)) as events:
                async for _ in events:
                    counts[0] += 1
        counts[1] += 1
        await asyncio.sleep(0)


def gaps(times: list[float]) -> Iterator[float]:
    """Seconds between two tokens of one answer."""
    for before, after in itertools.pairwise(times):
        if not math.isnan(after - before):
            yield after - before


async def bench(model: Path, seconds: float, only: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        provider, _ = provider_for(Path(folder), {MODEL: model}, context_tokens=CONTEXT)
        results: dict[str, Any] = {}
        try:
            await provider.load(MODEL)
            await read_times(provider, 1.0)
            for name, requests in neighbours().items():
                if not only or name in only:
                    results[name] = await measure(provider, requests, seconds)
                    print(f"{name:14}", *(f"{key} {each}" for key, each in results[name].items()))
        finally:
            await provider.close()
    print(json.dumps({"bench": "neighbours", "model": model.name, "results": results}))


async def measure(
    provider: LlamaCppProvider, requests: list[CompletionRequest], seconds: float
) -> dict[str, float]:
    counts = [0, 0]
    tasks = [asyncio.create_task(repeat(provider, each, counts)) for each in requests]
    await asyncio.sleep(1.0)
    counts[:] = 0, 0
    started = time.monotonic()
    times = await read_times(provider, seconds)
    took = time.monotonic() - started
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    found = sorted(gaps(times))
    return {
        "tokens/s": round(len(times) / took, 1),
        "p50 ms": round(1000 * found[len(found) // 2], 1),
        "p99 ms": round(1000 * found[math.ceil(0.99 * len(found)) - 1], 1),
        "max ms": round(1000 * found[-1], 1),
        "neighbour events/s": round(counts[0] / took, 1),
        "neighbour requests/s": round(counts[1] / took, 2),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", default=[])
    chosen = parser.parse_args()
    asyncio.run(bench(chosen.model.resolve(), chosen.seconds, chosen.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
