"""kill -9 at any step: accepted tasks are kept and finished once."""

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server_process import ServerProcess, running_server

PROMPT = "Write a Python function `double(x)` that returns twice x. double(2) == 4"
DEADLINE_S = 150
SHORT = {"MONKEY_CODER__AGENT__MAX_OUTPUT_TOKENS": "100"}


@pytest.fixture
def server(starter_model: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with running_server(tmp_path / "data", starter_model, **SHORT) as server:
        server.make_key()
        yield server


def submit(server: ServerProcess, count: int) -> list[str]:
    """Start tasks without waiting for their end; returns the ids that were accepted."""
    accepted: list[str] = []
    with server.client() as client:
        for _ in range(count):
            body = {"prompt": PROMPT, "persona_config": {"persona": "developer"}}
            with client.stream("POST", "/api/v1/execute/stream", json=body) as answer:
                for line in answer.iter_lines():
                    if '"start"' in line:
                        accepted.append(line.split('"task_id":"')[1].split('"')[0])
                        break
    return accepted


def until_final(server: ServerProcess, task_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + DEADLINE_S
    with server.client() as client:
        while True:
            task = client.get(f"/api/v1/tasks/{task_id}").json()
            if task["status"] in ("completed", "failed", "cancelled"):
                return task
            assert time.monotonic() < deadline, task
            time.sleep(0.3)


def assert_completed(server: ServerProcess, task_ids: list[str]) -> None:
    ends = [until_final(server, task_id) for task_id in task_ids]
    assert [end["status"] for end in ends] == ["completed"] * len(ends), (
        [end.get("error") for end in ends],
        server.log.read_text()[-20_000:],
    )


def journal(server: ServerProcess, kind: str) -> dict[str, int]:
    """How many events of a kind each task has on disk."""
    with sqlite3.connect(f"file:{server.data_dir}/monkey-coder.db?mode=ro", uri=True) as database:
        rows = database.execute(
            "SELECT t.public_id, sum(e.kind = ?) FROM tasks t JOIN task_events e"
            " ON e.task_id = t.id GROUP BY t.id",
            (kind,),
        ).fetchall()
    database.close()
    return dict(rows)


def wait_for(server: ServerProcess, kind: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not any(journal(server, kind).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "moment",
    [
        "accepted",
        pytest.param("planned", marks=SLOW),
        pytest.param("candidate", marks=SLOW),
        "verdict",
    ],
)
def test_kill_when_a_task_has_reached_a_step_then_it_is_finished_once(
    moment: str, server: ServerProcess
) -> None:
    accepted = submit(server, 2)
    wait_for(server, moment)
    server.kill()

    server.start()
    assert_completed(server, accepted)
    assert journal(server, "completed") == dict.fromkeys(accepted, 1)
    assert journal(server, "planned") == dict.fromkeys(accepted, 1)


@SLOW
def test_kill_when_at_random_moments_then_nothing_accepted_is_lost(
    server: ServerProcess,
) -> None:
    chance = random.Random(7)
    accepted: list[str] = []
    for _ in range(3):
        accepted += submit(server, 2)
        time.sleep(chance.uniform(0, 2))
        server.kill()
        server.start()
    assert_completed(server, accepted)
    assert set(journal(server, "completed").values()) == {1}
    assert integrity(server) == "ok"


def integrity(server: ServerProcess) -> str:
    with sqlite3.connect(f"file:{server.data_dir}/monkey-coder.db?mode=ro", uri=True) as database:
        result = database.execute("PRAGMA integrity_check").fetchone()[0]
    database.close()
    return str(result)


def test_stop_when_told_to_then_the_queue_is_kept_and_the_exit_is_clean(
    server: ServerProcess,
) -> None:
    accepted = submit(server, 3)
    assert server.stop() == 0
    server.start()
    assert_completed(server, accepted)


def test_kill_when_the_engine_dies_then_the_server_goes_on(server: ServerProcess) -> None:
    assert server.process is not None
    server.wait_ready()
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    for pid in children.read_text().split():
        if "llama_cpp" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(int(pid), 9)
    with server.client() as client:
        answer = client.post("/api/v1/execute", json={"prompt": PROMPT, "persona_config": {}})
    assert answer.json()["status"] == "completed", (answer.text, server.log.read_text()[-20_000:])
    assert httpx.get(f"{server.url}/health").status_code == 200
