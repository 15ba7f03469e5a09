"""Time from start to 200 on /health: the executable beside the same code from source.

    uv run python tests/bench/bench_start.py [--executable dist/monkey-coder] [--rounds 5]

Each round starts both, in turn, on a data directory of its own that has been started
once before (the first start makes the database and unpacks the sandbox's Python).
Prints the medians in seconds, the idle memory of all processes in MB, and a JSON line.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import httpx

from tests.support.server_process import PROGRAM, ServerProcess


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--executable", type=Path, default=Path("dist/monkey-coder"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    programs = {"source": PROGRAM, "executable": [str(arguments.executable.resolve())]}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    megabytes: dict[str, list[float]] = {name: [] for name in programs}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.rounds + 1):
            for name, program in programs.items():
                took, memory = one_start(Path(folder) / name, program)
                if number:
                    seconds[name].append(took)
                    megabytes[name].append(memory)
    report(seconds, megabytes)


def one_start(data_dir: Path, program: list[str]) -> tuple[float, float]:
    """Seconds to the first 200, and the memory of all its processes a second later."""
    server = ServerProcess(data_dir, program=program)
    started_at = time.perf_counter()
    server.start()
    while httpx.get(f"{server.url}/health").status_code != 200:
        time.sleep(0.001)
    took = time.perf_counter() - started_at
    time.sleep(1)
    assert server.process is not None
    memory = proportional_memory(server.process.pid)
    server.stop()
    return took, memory


def proportional_memory(pid: int) -> float:
    """The proportional set size of a process and its descendants, in MB."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    own = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000
    return own + sum(proportional_memory(int(child)) for child in children)


def report(seconds: dict[str, list[float]], megabytes: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, median in medians.items():
        memory = statistics.median(megabytes[name])
        print(f"{name:<11} {median:.3f} s to /health, {memory:.0f} MB idle")
    ratio = medians["executable"] / medians["source"]
    print(f"executable / source: {ratio:.2f}")
    line = {"bench": "start", "seconds": medians, "ratio": ratio, "python": sys.version.split()[0]}
    print(json.dumps(line))


if __name__ == "__main__":
    main()
