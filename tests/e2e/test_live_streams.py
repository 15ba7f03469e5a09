"""Streams and cancelling, on a real server with a real model."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server_process import ServerProcess

TASK = {
    "prompt": "Write a Python function `is_even(n)`. is_even(4) == True and is_even(7) == False",
    "persona_config": {"persona": "developer"},
}
LONG_TASK = {
    "prompt": "Write a very long story about monkeys, chapter after chapter.",
    "task_type": "documentation",
    "persona_config": {"persona": "technical_writer"},
    "context": {"max_tokens": 1000},
}
READERS = 200


def frames(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("path", ["/api/v1/execute/stream", "/api/v1/stream/execute"])
def test_stream_when_a_task_is_sent_then_each_step_and_the_end(
    path: str, client: httpx.Client
) -> None:
    answer = client.post(path, json=TASK)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = frames(answer.text)
    assert events[0]["type"] == "start"
    assert events[-1]["type"] == "complete", events[-1]
    assert {"progress", "code"} <= {frame["type"] for frame in events}
    assert "is_even" in events[-1]["result"]["code"]
    metrics = client.get("/metrics").text
    for counted in (
        'tasks_total{status="completed"}',
        'runs_total{reason="exited"}',
        "build_info{",
    ):
        assert counted in metrics
    assert 'kind="completion"' in metrics


def test_stream_when_resumed_then_every_event_comes_once(client: httpx.Client) -> None:
    first = client.post("/api/v1/execute/stream", json=TASK).text
    task_id = frames(first)[0]["task_id"]
    ids = [line[4:] for line in first.splitlines() if line.startswith("id: ")]
    again = client.get(
        f"/api/v1/tasks/{task_id}/events", headers={"Last-Event-ID": ids[len(ids) // 2]}
    ).text
    resumed = [line[4:] for line in again.splitlines() if line.startswith("id: ")]
    assert ids[: len(ids) // 2 + 1] + resumed == ids


async def test_streams_when_two_hundred_read_at_once_then_each_sees_the_whole_journal(
    server: ServerProcess,
) -> None:
    limits = httpx.Limits(max_connections=READERS + 10)
    headers = {"Authorization": f"Bearer {server.key}"}
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=180, limits=limits
    ) as client:
        running = asyncio.create_task(
            client.post("/api/v1/execute", json={**TASK, "task_id": "crowd"})
        )
        while (await client.get("/api/v1/tasks/crowd")).status_code == 404:
            await asyncio.sleep(0.05)
        reads = [client.get("/api/v1/tasks/crowd/events?after=0") for _ in range(READERS)]
        answers = await asyncio.gather(*reads)
        assert (await running).json()["status"] == "completed"
    assert {answer.status_code for answer in answers} == {200}
    assert len({tuple(json.dumps(frame) for frame in frames(a.text)) for a in answers}) == 1


def test_cancel_when_generating_then_it_ends_within_a_second(client: httpx.Client) -> None:
    with client.stream("POST", "/api/v1/execute/stream", json=LONG_TASK) as stream:
        lines = stream.iter_lines()
        task_id = next(json.loads(line[6:])["task_id"] for line in lines if '"start"' in line)
        next(line for line in lines if '"code"' in line or '"progress"' in line)
        cancelled_at = time.monotonic()
        answer = client.post(f"/api/v1/tasks/{task_id}/cancel")
        assert answer.status_code == 200, answer.text
        assert answer.json()["status"] == "cancelled"
        last = [json.loads(line[6:]) for line in lines if line.startswith("data: ")][-1]
    assert time.monotonic() - cancelled_at < 10
    assert last["type"] == "error"
    assert client.get(f"/api/v1/tasks/{task_id}").json()["status"] == "cancelled"
    assert client.post(f"/api/v1/tasks/{task_id}/cancel").status_code == 409


def test_cancel_when_the_sandbox_runs_then_no_process_is_left(client: httpx.Client) -> None:
    endless = {"path": "test_endless.py", "content": "def test_endless():\n    while True: pass\n"}
    body = {**TASK, "files": [endless], "task_id": "endless"}
    with client.stream("POST", "/api/v1/execute/stream", json=body) as stream:
        lines = stream.iter_lines()
        next(line for line in lines if "candidate" in line or '"branch"' in line)
        assert client.post("/api/v1/tasks/endless/cancel").status_code == 200
        list(lines)
    deadline = time.monotonic() + 5
    while _running("test_endless.py"):
        assert time.monotonic() < deadline, "the sandbox outlived its task"
        time.sleep(0.05)


def _running(word: str) -> list[str]:
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if word in line:
            lines.append(line)
    return lines
