"""HumanEval problems solved: one greedy sample, one warm sample, and 8 verified branches.

    uv run python tests/bench/bench_humaneval.py --data humaneval.jsonl.gz --model model.gguf
        [--problems N] [--branches 8] [--samples 1]

All three go through the same agent, engine and sandbox as the product's tasks; the
first two ask for one branch without repair. The agent sees the prompt only: its
examples, where it has some, are what the branches are verified by. A solution is then
judged as the data's authors do, with their tests, in the sandbox. Prints one line per
problem, a table with the ratios, and a JSON line.
"""

import argparse
import asyncio
import gzip
import json
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import Struct

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings, SandboxSettings
from appliance.domain.execution import RunRequest, SandboxFile
from appliance.domain.tasks import TaskRequest, TaskResult
from appliance.errors import ApplianceError
from appliance.inference import Gateway
from appliance.sandbox.python import runtime
from appliance.sandbox.runner import SandboxRunner
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.agent_fakes import MemoryContext
from tests.support.llama_provider import provider_for
from tests.support.sandbox_service import plugin_context

_TASK_S = 600.0
_MAX_TOKENS = 512
_WARM = 0.6


class Problem(Struct, frozen=True):
    task_id: str
    prompt: str
    entry_point: str
    test: str


class Way(Struct, frozen=True):
    """How a problem is attempted. `samples` is how often, for the mean of a random way."""

    name: str
    branches: int
    temperature: float | None
    repair_rounds: int
    samples: int = 1


class Tally(Struct):
    """`solved` is a mean number of problems where a way has several samples."""

    solved: float = 0.0
    claimed: int = 0
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class System:
    gateway: Gateway
    sandbox: SandboxRunner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--problems", type=int, default=0, help="only the first N; 0 is all")
    parser.add_argument("--first", type=int, default=0, help="leave out the first N")
    parser.add_argument("--branches", type=int, default=8)
    parser.add_argument("--samples", type=int, default=1, help="warm samples to take the mean of")
    given = parser.parse_args()
    problems = _read(given.data)[given.first :]
    given.model = given.model.resolve()
    asyncio.run(_bench(problems[: given.problems or None], given))


def _read(path: Path) -> list[Problem]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return [Problem(row["task_id"], row["prompt"], row["entry_point"], row["test"]) for row in rows]


async def _bench(problems: Sequence[Problem], given: argparse.Namespace) -> None:
    ways = (
        Way("greedy", 1, 0.0, 0),
        Way("one sample", 1, _WARM, 0, given.samples),
        Way(f"{given.branches} branches", given.branches, None, 1),
    )
    tallies = {way.name: Tally() for way in ways}
    async with _open_system(given.model) as system:
        for number, problem in enumerate(problems):
            outcomes: list[str] = []
            for way in ways:
                good = await _attempt(problem, number, way, system, tallies[way.name])
                outcomes.append(
                    f"{way.name}: {'yes' if good == 1 else f'{good:.1f}' if good else 'no'}"
                )
            print(f"{problem.task_id:14} {', '.join(outcomes)}", flush=True)
    _report(tallies, len(problems), given)


@asynccontextmanager
async def _open_system(model: Path) -> AsyncGenerator[System, None]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        provider, _ = provider_for(folder, {"starter": model}, max_sequences=8)

        async def default() -> str | None:
            return "starter"

        gateway = Gateway({provider.name: provider}, default)
        backend = Bubblewrap(plugin_context(_sandbox_python(), folder / "run"))
        sandbox = SandboxRunner({"bubblewrap": backend}, SandboxSettings())
        await sandbox.start()
        try:
            yield System(gateway, sandbox)
        finally:
            await sandbox.close()
            await gateway.close()


def _sandbox_python() -> Path:
    """Made once per machine, where the tests keep it too."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return runtime.ensure_runtime(cache / "monkey-coder-tests")


async def _attempt(problem: Problem, number: int, way: Way, system: System, tally: Tally) -> float:
    """Share of the samples that solve the problem."""
    agent = CodingAgent(
        system.gateway, system.sandbox, AgentSettings(repair_rounds=way.repair_rounds)
    )
    solved = 0
    for sample in range(way.samples):
        request = TaskRequest(
            prompt=problem.prompt,
            branches=way.branches,
            temperature=way.temperature,
            seed=1000 * number + sample,
            max_tokens=_MAX_TOKENS,
        )
        started = time.perf_counter()
        try:
            result = await agent.run(MemoryContext(request, seconds=_TASK_S))
        except ApplianceError as error:
            print(f"{problem.task_id}: {way.name}: {error.code}: {error.message}", flush=True)
            continue
        tally.seconds += (time.perf_counter() - started) / way.samples
        tally.tokens += result.usage.completion_tokens // way.samples
        tally.claimed += sample == 0 and result.verification.ok
        solved += await passes_tests(problem, result, system.sandbox)
    tally.solved += solved / way.samples
    return solved / way.samples


async def passes_tests(problem: Problem, result: TaskResult, sandbox: SandboxRunner) -> bool:
    """prompt + completion + test + check(entry_point), as its authors judge."""
    completion = f"    pass\n\n{result.code or ''}\n"
    program = f"{problem.prompt}{completion}\n{problem.test}\n\ncheck({problem.entry_point})\n"
    request = RunRequest(
        argv=("python", "judged.py"),
        files=(SandboxFile("judged.py", program.encode()),),
        limits=sandbox.limits(),
    )
    return (await sandbox.run(request)).ok


def _report(tallies: Mapping[str, Tally], problems: int, given: argparse.Namespace) -> None:
    print(f"\n{'way':14}{'solved':>10}{'passed own':>12}{'s/problem':>11}{'tokens':>9}")
    for name, tally in tallies.items():
        print(
            f"{name:14}{tally.solved:>7.1f}/{problems}{tally.claimed:>12}"
            f"{tally.seconds / max(1, problems):>11.1f}{tally.tokens:>9}"
        )
    greedy, warm, branches = tallies.values()
    ratios = {
        "to_one_sample": branches.solved / warm.solved if warm.solved else None,
        "to_greedy": branches.solved / greedy.solved if greedy.solved else None,
    }
    print(f"ratios: {ratios}")
    row = {
        "bench": "humaneval",
        "model": given.model.name,
        "problems": problems,
        "branches": given.branches,
        "solved": {name: tally.solved for name, tally in tallies.items()},
        "seconds": {name: round(tally.seconds, 1) for name, tally in tallies.items()},
        "ratios": ratios,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
