"""Decoding with prompt lookup and without: one engine, alternating rounds.

    python -m tests.bench.bench_speculation --model FILE [--rounds 5] [--tokens 256]

`edit`: the prompt holds a file of about sixty lines and the answer is that file with two names
changed. Small models don't do that reliably, so a grammar spells the answer: the time is that of
an able model with the same tokens. `repeat`: the model continues by itself a text that starts to
repeat. `open`: a free text at the usual temperature, where there is little to look up. The time
is that of decoding alone, from the first token to the last; the figure is the median over the
rounds of (without / with), so more than 1 is faster. The same ratio of CPU time is more reliable
on a shared machine. Step costs are measured first, as at an engine's first load. Prints a line
per task and, last, one line of JSON.
"""

import argparse
import inspect
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from msgspec import Struct

from appliance.domain.messages import (
    CompletionRequest,
    OutputFormat,
    OutputKind,
    Sampling,
    TokenUsage,
)
from appliance.spi.host import usable_cpus
from plugins.providers.llama_cpp.engine import prefix_cache
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.calibration import Prober
from plugins.providers.llama_cpp.engine.kv_cache import KvCache
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.messages import Done, FromEngine
from plugins.providers.llama_cpp.speculation.speculation import MAX_DRAFT_TOKENS
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts

_CELLS = 4096
_CHUNK = 256
_LINES = 60
_RENAMES = (("longest", "greatest"), ("free_slots", "open_slots"))


class Task(Struct, frozen=True):
    """A raw prompt, and what holds its answer: a grammar, or "" for none."""

    name: str
    prompt: str
    sampling: Sampling
    grammar: str = ""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256, help="new tokens of each answer")
    parser.add_argument("--threads", type=int, default=usable_cpus())
    options = parser.parse_args()
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    bench = _Bench(options.model.resolve(), options.threads)
    print(f"rows cost {[round(cost, 2) for cost in bench.costs.times]}; {options.threads} threads")
    results = [bench.compare(task, options.rounds, options.tokens) for task in _tasks()]
    line = {"bench": "speculation", "model": options.model.name, "threads": options.threads}
    print(json.dumps(line | {"costs": bench.costs.times, "results": results}))
    return 0


def _tasks() -> list[Task]:
    lines = inspect.getsource(prefix_cache).splitlines()
    file = "\n".join(lines[:_LINES]) + "\n"
    edited = file
    for old, new in _RENAMES:
        edited = edited.replace(old, new)
    prompt = f"Here is a file:\n\n{file}\nHere it is with other names:\n\n"
    greedy = Sampling(temperature=0)
    return [
        Task("edit", prompt, greedy, f"root ::= {json.dumps(edited, ensure_ascii=False)}"),
        Task("repeat", f"{file}\n\n# The same again:\n{file[:400]}", greedy),
        Task("open", "Once upon a time there was a", Sampling(temperature=0.8, seed=1)),
    ]


class DecodeTime(Struct, frozen=True):
    """Time of decoding, in seconds per token after the first."""

    wall: float
    processor: float
    usage: TokenUsage


class _Bench:
    def __init__(self, path: Path, threads: int) -> None:
        lib, self._log = load_library(), ErrorLog()
        self._log.install(lib)
        lib.llama_backend_init()
        self._model = Model(lib, str(path))
        self._context = Context(
            self._model,
            cells=_CELLS,
            slots=3,
            batch_tokens=_CHUNK + 32,
            threads=threads,
            draft_rows=MAX_DRAFT_TOKENS,
        )
        # One cache for all rounds: the prompt is computed once, and shared after that.
        self._kv_cache = KvCache(
            self._context,
            cells=self._context.cells,
            max_sequences=1,
            slots=self._context.slots,
            context_tokens=self._context.cells,
            divisible=True,
        )
        # Used even if other processes disturbed it; an engine would wait for its next load.
        prober = Prober(self._model, self._context, _CHUNK)
        self.costs = prober.measure_costs()
        prober.close()

    def compare(self, task: Task, rounds: int, tokens: int) -> dict[str, Any]:
        """The median of (seconds without / seconds with), and the draft tokens."""
        ratios: list[tuple[float, float]] = []
        usage = TokenUsage()
        for number in range(rounds + 1):
            sides = [StepCosts(), self.costs]
            order = sides if number % 2 else reversed(sides)
            timings = {costs.usable: self._run(task, costs, tokens) for costs in order}
            plain, drafting = timings[False], timings[True]
            usage = drafting.usage
            if number:
                ratios.append((plain.wall / drafting.wall, plain.processor / drafting.processor))
        wall, processor = (median(each) for each in zip(*ratios, strict=True))
        drafted, accepted = usage.drafted_tokens, usage.accepted_tokens
        print(
            f"{task.name}: {wall:.2f} x as fast with drafts, {processor:.2f} x by processor time; "
            f"{accepted} of {drafted} draft tokens accepted, {usage.completion_tokens} generated"
        )
        result = {"task": task.name, "ratio": wall, "processor_ratio": processor}
        counts = {"drafted": drafted, "accepted": accepted, "tokens": usage.completion_tokens}
        return result | counts

    def _run(self, task: Task, costs: StepCosts, tokens: int) -> DecodeTime:
        sent: list[FromEngine] = []
        batcher = Batcher(
            self._model,
            self._context,
            self._kv_cache,
            chunk=_CHUNK,
            stops=(),
            send=sent.append,
            costs=costs,
        )
        batcher.queue.append(self._job(task, tokens))
        while not any(sequence.decoding for sequence in self._kv_cache.sequences):
            batcher.step()
        started, used = time.monotonic(), time.process_time()
        while not batcher.idle:
            batcher.step()
        seconds, used = time.monotonic() - started, time.process_time() - used
        last = sent[-1]
        assert isinstance(last, Done)
        behind = last.usage.completion_tokens - 1
        return DecodeTime(seconds / behind, used / behind, last.usage)

    def _job(self, task: Task, tokens: int) -> Job:
        output = OutputFormat(
            OutputKind.GRAMMAR if task.grammar else OutputKind.TEXT, grammar=task.grammar
        )
        job = Job(1, CompletionRequest("m", (), task.sampling, tokens, "bench", output=output))
        first = self._model.bos_token
        text = self._model.tokenize(task.prompt, parse_special=False)
        job.tokens = text if first is None else [first, *text]
        return job


if __name__ == "__main__":
    sys.exit(main())
