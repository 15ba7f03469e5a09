"""kill -9 while tasks run: each is tried again, ends once, and is charged once per attempt."""

import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import plugin_provider
from tests.support.plugin_provider import PACED
from tests.support.polling import wait_until
from tests.support.server_process import ServerProcess, running_server

PROMPT = "Write a Python function `double(x)` that returns twice x. double(2) == 4"
RUNNING = 3
LONGEST_S = 1.5
SETTINGS = {
    "MONKEY_CODER__SCHEDULER__WORKERS": str(RUNNING),
    "MONKEY_CODER__SCHEDULER__MAX_ATTEMPTS": "1000",
    "MONKEY_CODER__AGENT__BRANCHES": "1",
    "MONKEY_CODER__AGENT__REPAIR_ROUNDS": "0",
}
FINAL = ("completed", "failed", "cancelled")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    installed = plugin_provider.install(tmp_path / "plugins")
    with running_server(tmp_path / "data", None, **installed, **SETTINGS) as server:
        server.make_key()
        yield server


def submit(server: ServerProcess, names: list[str]) -> None:
    """Start a task per name; returns when all were accepted."""
    with server.client() as client:
        for name in names:
            body: dict[str, Any] = {
                "prompt": PROMPT,
                "task_id": name,
                "model": name,
                "persona_config": {},
            }
            with client.stream("POST", "/api/v1/execute/stream", json=body) as answer:
                assert '"start"' in next(line for line in answer.iter_lines() if "data:" in line)


def rows(server: ServerProcess, sql: str) -> list[tuple[Any, ...]]:
    path = f"file:{server.data_dir}/monkey-coder.db?mode=ro"
    with contextlib.closing(sqlite3.connect(path, uri=True)) as database:
        return database.execute(sql).fetchall()


def count_open(server: ServerProcess, status: str) -> int:
    return rows(server, f"SELECT count(*) FROM tasks WHERE status = '{status}'")[0][0]


def crash(server: ServerProcess, kills: int) -> list[str]:
    """Kill the server while tasks run, and start it again, `kills` times; the tasks' names."""
    chance, names, models = random.Random(7), list[str](), iter(PACED)
    for _ in range(kills):
        while count_open(server, "queued") + count_open(server, "running") < RUNNING:
            names.append(next(models))
            submit(server, names[-1:])
        wait_until(lambda: count_open(server, "running") > 0)
        time.sleep(chance.uniform(0, LONGEST_S))
        server.kill()
        server.start()
    return names


def assert_nothing_lost_or_doubled(server: ServerProcess, names: list[str]) -> None:
    wait_until(lambda: count_open(server, "queued") + count_open(server, "running") == 0)
    server.stop()  # the last usage is on disk then
    ends = dict(rows(server, "SELECT public_id, status FROM tasks"))
    assert ends == dict.fromkeys(names, "completed")
    events = rows(
        server,
        "SELECT public_id, e.kind, data FROM task_events AS e JOIN tasks ON tasks.id = task_id",
    )
    kinds = Counter((name, kind) for name, kind, _ in events)
    attempts = dict(rows(server, "SELECT public_id, attempt FROM tasks"))
    charges = Counter(
        name
        for (name,) in rows(
            server, "SELECT public_id FROM usage_records JOIN tasks ON tasks.id = task_id"
        )
    )
    for name in names:
        assert sum(kinds[name, kind] for kind in FINAL) == 1
        assert kinds[name, "accepted"] == kinds[name, "planned"] == kinds[name, "code"] == 1
        assert kinds[name, "candidate"] == kinds[name, "verdict"] == 1
        assert kinds[name, "started"] == attempts[name]
        assert 1 <= charges[name] <= attempts[name]
    assert not rows(server, "SELECT * FROM usage_records WHERE status = 'reserved'")
    assert rows(server, "PRAGMA integrity_check") == [("ok",)]
    print(
        f"{len(names)} tasks, {sum(attempts.values())} attempts, at most {max(attempts.values())}"
    )
    assert max(attempts.values()) > 1


def test_kill_when_tasks_run_then_each_is_retried_and_ends_once(server: ServerProcess) -> None:
    names = crash(server, 4)
    assert_nothing_lost_or_doubled(server, names)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_when_a_hundred_times_then_nothing_is_lost_or_done_twice(
    server: ServerProcess,
) -> None:
    names = crash(server, 100)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert_nothing_lost_or_doubled(server, names)
