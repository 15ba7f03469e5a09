"""A program that prints 1 in the sandbox, from its start to its result: cold, warm, unconfined.

    python -m tests.bench.bench_sandbox [--rounds 15] [--seconds 3]

Each round does all three in turn: a sandbox made for the run, a sandbox that waited with that
program's interpreter started, and the same program as a plain subprocess. So for Python (the
sandbox's own, which the goals name), for Node, where there is one, and for a shell. Then, for
Python, the runs per second at 1, 2, 4 and 8 at once, with 2 and with no sandboxes waiting, and
the memory of one that waits: its share of what is mapped (PSS). Prints, last, one line of JSON.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

from msgspec import structs

from appliance.domain.execution import RunRequest, SandboxFile
from appliance.sandbox.python import runtime
from plugins._shared.stage.job import ENVIRONMENT
from plugins._shared.stage.prewarm_setup import PrewarmKind
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox_service import plugin_context

KIB = 1024
_SOURCE = SandboxFile("one.js", b"console.log(1)")
_PROGRAMS = {
    PrewarmKind.PYTHON: ("python", "-c", "print(1)"),
    PrewarmKind.NODE: ("node", _SOURCE.path),
    PrewarmKind.ANY: ("sh", "-c", "echo 1"),
}
# How the command lines of those begin that wait for them, below the sandbox's first process.
_WAITS_AS = {
    PrewarmKind.PYTHON: b"python\0/tmp/.start",
    PrewarmKind.NODE: b"node\0--require",
    PrewarmKind.ANY: b"/",
}
_WAITING = 2
_AT_ONCE = (1, 2, 4, 8)
_GOALS = {"cold": 1.5, "warm": 0.7}
_SETTLE_S = 0.05

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
    (folder / _SOURCE.path).write_bytes(_SOURCE.content)
    os.chdir(folder)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    python = runtime.ensure_runtime(cache / "monkey-coder-tests")
    cold = await _open_backend(python, folder / "cold", 0)
    warm = await _open_backend(python, folder / "warm", _WAITING)
    kinds = {
        kind: found
        for kind, (name, *_) in _PROGRAMS.items()
        if (found := str(python / "bin" / "python3") if name == "python" else shutil.which(name))
    }
    medians: dict[str, dict[str, float]] = {}
    memory: dict[str, int] = {}
    try:
        for kind, program in kinds.items():
            medians[kind] = await _alternate(kind, program, cold, warm, rounds)
            memory[kind] = round(_memory(kind) / _WAITING)
        rates = {
            name: {str(number): await _rate(server, number, seconds) for number in _AT_ONCE}
            for name, server in (("cold", cold), ("warm", warm))
        }
    finally:
        await cold.close()
        await warm.close()
    _report(medians, rates, memory)


async def _open_backend(python: Path, runtime_dir: Path, waiting: int) -> Bubblewrap:
    settings = {"warm": waiting, "parallel_runs": max(_AT_ONCE)}
    server = Bubblewrap(structs.replace(plugin_context(python, runtime_dir), settings=settings))
    status = await server.probe()
    if not status.available:
        sys.exit(f"needs sandbox: {status.problem}. {status.remedy}")
    return server


async def _filled(server: Bubblewrap, kind: PrewarmKind) -> None:
    while server.count_idle(kind) < _WAITING:
        await asyncio.sleep(0.005)
    await asyncio.sleep(_SETTLE_S)


# Latency


async def _alternate(
    kind: PrewarmKind, program: str, cold: Bubblewrap, warm: Bubblewrap, rounds: int
) -> dict[str, float]:
    """The median seconds of each."""
    runs: dict[str, Run] = {
        "plain": lambda: _plain(program, *_PROGRAMS[kind][1:]),
        "cold": lambda: _confined(cold, kind),
        "warm": lambda: _confined(warm, kind),
    }
    await _confined(warm, kind)  # it is this that has some of that kind wait
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items() if number % 2 else reversed(runs.items()):
            await _filled(warm, kind)
            started_at = time.perf_counter()
            await run()
            if number:  # the first of each finds nothing in the caches
                seconds[name].append(time.perf_counter() - started_at)
    await _filled(warm, kind)
    return {name: median(values) for name, values in seconds.items()}


async def _plain(program: str, *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        program, *words, stdout=asyncio.subprocess.PIPE, env=ENVIRONMENT
    )
    output, _ = await process.communicate()
    if output != b"1\n":
        sys.exit(f"the plain interpreter said {output!r}")


async def _confined(server: Bubblewrap, kind: PrewarmKind = PrewarmKind.PYTHON) -> None:
    files = (_SOURCE,) if kind is PrewarmKind.NODE else ()
    result = await server.run(RunRequest(_PROGRAMS[kind], files))
    if result.stdout != b"1\n":
        sys.exit(f"a run ended with {result}")


# Throughput


async def _rate(server: Bubblewrap, at_once: int, seconds: float) -> float:
    """Runs per second."""
    finished = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal finished
        while time.perf_counter() < end:
            await _confined(server)
            finished += 1

    started_at = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(at_once)))
    return finished / (time.perf_counter() - started_at)


# Memory


def _memory(kind: PrewarmKind) -> int:
    """The proportional set size of the idle sandboxes of this kind, in bytes."""
    return sum(
        sum(map(_share, tree)) for tree in _sandboxes() if _starts_with(tree[-1], _WAITS_AS[kind])
    )


def _sandboxes() -> list[list[int]]:
    """Of each that waits: bwrap, the first process inside, and the one that waits."""
    trees = [_line_of(pid) for pid in _below(os.getpid()) if _starts_with(pid, b"bwrap\0")]
    return [tree for tree in trees if len(tree) == len(("bwrap", "first", "waits"))]


def _line_of(pid: int) -> list[int]:
    return [pid, *_below(pid)]


def _below(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *_below(child)]
    return found


def _starts_with(pid: int, words: bytes) -> bool:
    return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(words)


def _share(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * KIB


def _report(
    medians: dict[str, dict[str, float]],
    rates: dict[str, dict[str, float]],
    memory: dict[str, int],
) -> None:
    for kind, times in medians.items():
        program = _PROGRAMS[PrewarmKind(kind)][0]
        print(f"{program}: {1000 * times['plain']:.1f} ms as it is")
        for name, goal in _GOALS.items():
            ratio = times[name] / times["plain"]
            goal_text = f" (goal {goal} x)" if kind is PrewarmKind.PYTHON else ""
            print(f"  {name}: {1000 * times[name]:.1f} ms, {ratio:.2f} x{goal_text}")
        print(f"  one that waits: {memory[kind] / KIB / KIB:.1f} MiB")
    for name, counts in rates.items():
        text = ", ".join(f"{rate:.0f} at {number}" for number, rate in counts.items())
        print(f"{name}, runs per second: {text}")
    line = {"bench": "sandbox", "seconds": medians, "per_s": rates, "waiting_bytes": memory}
    print(json.dumps(line | {"cpus": os.cpu_count()}))


if __name__ == "__main__":
    sys.exit(main())
