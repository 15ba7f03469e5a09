"""A server without a model whose sandbox is small: settings, requests and checks of its tests."""

import time
from pathlib import Path
from typing import Any

import httpx

from tests.support.sandbox import find_host_processes
from tests.support.server_process import ServerProcess

RUN = "/api/v1/sandbox/run"
PISTON = "/api/v2/execute"
DEADLINE_S = 30


def small_settings() -> dict[str, str]:
    names = {
        "PARALLEL_RUNS": 2,
        "QUEUE_LIMIT": 2,
        "MEMORY_MIB": 128,
        "PROCESSES": 32,
        "LANGUAGES": "*",
    }
    small = {f"MONKEY_CODER__SANDBOX__{name}": str(value) for name, value in names.items()}
    return {**small, "MONKEY_CODER__MODELS__PRELOAD": "false"}


def python(client: httpx.Client, code: str, **more: Any) -> dict[str, Any]:
    answer = client.post(RUN, json={"language": "python", "code": code, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def until_seen(mark: str, count: int) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while len(find_host_processes(mark)) < count:
        assert time.monotonic() < deadline, mark
        time.sleep(0.02)


def until_unseen(mark: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while seen := find_host_processes(mark):
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


def control_groups(server: ServerProcess) -> list[Path]:
    assert server.process is not None
    root, mine = Path("/sys/fs/cgroup"), f"monkey-coder-{server.process.pid}-*"
    depths = ("*", "*/*", "*/*/*", "*/*/*/*")
    return [path for depth in depths for path in root.glob(f"{depth}/{mine}")]
