"""`print(1)` in the sandbox, from its start to its result: cold, warm, and unconfined.

    python -m tests.bench.bench_sandbox [--rounds 15] [--seconds 3]

Each round does all three in turn: a sandbox made for the run, a sandbox that waited with an
interpreter started, and the sandbox's own Python as a plain subprocess. Then the runs per
second at 1, 2, 4 and 8 at once, with 2 and with no sandboxes waiting, and the memory of one
that waits: its share of what is mapped (PSS). Prints, last, one line of JSON.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from msgspec import structs

from appliance.domain.execution import RunRequest
from appliance.sandbox import python_runtime
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox_service import plugin_context

KIB = 1024
_WORDS = ("-c", "print(1)")
_WAITING = 2
_AT_ONCE = (1, 2, 4, 8)
_GOALS = {"cold": 1.5, "warm": 0.7}
_SETTLE_S = 0.05
# Its first process, under bwrap or alone, and the interpreter.
_OF_A_SANDBOX = (b"stage.pyc", b"program.pyc")

Run = Callable[[], Awaitable[None]]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="at least five")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each count of runs")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in ("cold", "warm"):
            Path(folder, name).mkdir()
        asyncio.run(_bench(Path(folder), max(5, chosen.rounds), chosen.seconds))
    return 0


async def _bench(folder: Path, rounds: int, seconds: float) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    python = python_runtime.prepare(cache / "monkey-coder-tests")
    cold = await _started(python, folder / "cold", 0)
    before = _children()
    warm = await _started(python, folder / "warm", _WAITING)
    try:
        await _filled(warm)
        memory = _memory(_children() - before) / _WAITING
        medians = await _alternate(python, cold, warm, rounds)
        rates = {
            name: {str(number): await _rate(box, number, seconds) for number in _AT_ONCE}
            for name, box in (("cold", cold), ("warm", warm))
        }
    finally:
        await cold.close()
        await warm.close()
    _report(medians, rates, memory)


async def _started(python: Path, runtime_dir: Path, waiting: int) -> Bubblewrap:
    settings = {"warm": waiting, "parallel_runs": max(_AT_ONCE)}
    box = Bubblewrap(structs.replace(plugin_context(python, runtime_dir), settings=settings))
    status = await box.probe()
    if not status.available:
        sys.exit(f"this machine can't confine: {status.problem}. {status.remedy}")
    return box


async def _filled(box: Bubblewrap) -> None:
    while box.waiting < _WAITING:
        await asyncio.sleep(0.005)
    await asyncio.sleep(_SETTLE_S)


# Latency


async def _alternate(
    python: Path, cold: Bubblewrap, warm: Bubblewrap, rounds: int
) -> dict[str, float]:
    """The median seconds of each."""
    runs: dict[str, Run] = {
        "plain": lambda: _plain(python),
        "cold": lambda: _confined(cold),
        "warm": lambda: _confined(warm),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items() if number % 2 else reversed(runs.items()):
            await _filled(warm)
            begun = time.perf_counter()
            await run()
            if number:  # the first of each finds nothing in the caches
                taken[name].append(time.perf_counter() - begun)
    return {name: median(values) for name, values in taken.items()}


async def _plain(python: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        python / "bin" / "python3", *_WORDS, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if output != b"1\n":
        sys.exit(f"the plain interpreter said {output!r}")


async def _confined(box: Bubblewrap) -> None:
    result = await box.run(RunRequest(("python", *_WORDS)))
    if result.stdout != b"1\n":
        sys.exit(f"a run ended with {result}")


# Throughput


async def _rate(box: Bubblewrap, at_once: int, seconds: float) -> float:
    """Runs per second."""
    finished = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal finished
        while time.perf_counter() < end:
            await _confined(box)
            finished += 1

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return finished / (time.perf_counter() - begun)


# Memory


def _children() -> set[int]:
    """Processes that descend from this one."""
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").iterdir():
            more = set(map(int, (task / "children").read_text().split()))
            todo += more
            found |= more
    return found


def _memory(processes: set[int]) -> float:
    """The proportional set size of the sandboxes among them, in bytes."""
    total = 0
    for pid in processes:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if not any(name in command for name in _OF_A_SANDBOX):
            continue  # what the box has once, however many wait
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total * KIB


def _report(medians: dict[str, float], rates: dict[str, dict[str, float]], memory: float) -> None:
    ratios = {name: medians[name] / medians["plain"] for name in _GOALS}
    for name, value in medians.items():
        ratio = f", {ratios[name]:.2f} x (goal {_GOALS[name]} x)" if name in ratios else ""
        print(f"{name}: {1000 * value:.1f} ms{ratio}")
    for name, counts in rates.items():
        said = ", ".join(f"{rate:.0f} at {number}" for number, rate in counts.items())
        print(f"{name}, runs per second: {said}")
    print(f"a waiting sandbox: {memory / KIB / KIB:.1f} MiB")
    line = {"bench": "sandbox", "seconds": medians, "ratios": ratios, "per_s": rates}
    print(json.dumps(line | {"waiting_bytes": round(memory), "cpus": os.cpu_count()}))


if __name__ == "__main__":
    sys.exit(main())
