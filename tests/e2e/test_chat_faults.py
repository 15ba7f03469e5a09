"""Chats on a server with two models: engines that die and clients that leave affect nobody else."""

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.engines import engine_of, resident
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_gguf import write_tiny_gguf

DEADLINE_S = 60
LONG = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 4000, "stream": True}
SHORT = {"messages": [{"role": "user", "content": "go on"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("faults")
    data = folder / "data"
    for name in ("one", "two"):
        file = write_tiny_gguf(folder / f"{name}.gguf", context_tokens=8192)
        command("model", "add", file, "--in-place", "--alias", name, "--data-dir", data)
    with running_server(data) as server:
        server.make_key()
        yield server


def chat(client: httpx.Client, model: str, **more: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json=SHORT | {"model": model} | more)


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


def test_engine_killed_mid_stream_then_the_stream_tells_and_all_else_goes_on(
    two_models: ServerProcess,
):
    with two_models.client() as client:
        assert chat(client, "two").status_code == 200
        with client.stream("POST", "/v1/chat/completions", json=LONG | {"model": "one"}) as answer:
            chunks = events(answer.iter_lines())
            assert "choices" in next(chunks)
            os.kill(engine_of(two_models, "one"), signal.SIGKILL)
            last = list(chunks)[-1]
        assert "error" in last, last
        assert "one" in last["error"]["message"]
        untouched = engine_of(two_models, "two")

        assert chat(client, "two").status_code == 200
        assert engine_of(two_models, "two") == untouched
        assert chat(client, "one").status_code == 200


def test_client_that_leaves_mid_stream_frees_its_place(two_models: ServerProcess):
    """More clients leave than the engine has places, and the next one is served at once."""
    with two_models.client() as client:
        for _ in range(20):
            body = LONG | {"model": "one"}
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(events(answer.iter_lines()))
        started = time.monotonic()
        assert chat(client, "one").status_code == 200
        assert time.monotonic() - started < DEADLINE_S


def test_many_short_chats_leave_no_memory_behind(two_models: ServerProcess):
    """A few hundred here; tests/bench/bench_memory.py holds it over ten thousand."""
    assert two_models.process is not None
    with two_models.client() as client, ThreadPoolExecutor(4) as pool:

        def burst(count: int) -> None:
            chats = [pool.submit(chat, client, "one", seed=number) for number in range(count)]
            assert {each.result().status_code for each in chats} == {200}

        burst(100)
        before = [resident(two_models.process.pid), resident(engine_of(two_models, "one"))]
        burst(200)
        after = [resident(two_models.process.pid), resident(engine_of(two_models, "one"))]
    grown = [late - early for early, late in zip(before, after, strict=True)]
    assert all(each < 8 * 1024 * 1024 for each in grown), grown
