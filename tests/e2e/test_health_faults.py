"""/health and readiness of a real server whose disk, database, engine or sandbox fails (F68)."""

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.engines import engine_of, find_engine
from tests.support.polling import wait_until
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_gguf import write_tiny_gguf

CHAT = {"model": "one", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "one.gguf")


@pytest.fixture(scope="module")
def own_server(model_file: Path) -> Iterator[ServerProcess]:
    data = model_file.with_name("data")
    command("model", "add", model_file, "--in-place", "--alias", "one", "--data-dir", data)
    with running_server(data) as server:
        server.make_key()
        server.wait_ready()
        yield server


def health(server: ServerProcess) -> dict[str, Any]:
    return httpx.get(f"{server.url}/health").json()


def waiting_for(server: ServerProcess) -> dict[str, str]:
    return httpx.get(f"{server.url}/health/readiness").json()["waiting_for"]


def test_health_when_another_program_locks_the_database_then_unhealthy_until_it_ends(
    own_server: ServerProcess,
) -> None:
    database = own_server.data_dir / "monkey-coder.db"
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        told = wait_until(lambda: health(own_server)["problems"].get("database"))
        assert "another program has it locked; stop that one" in told
        assert health(own_server)["status"] == "unhealthy"
        assert httpx.get(f"{own_server.url}/health").status_code == 503
        assert waiting_for(own_server) == {"database": told}
    wait_until(lambda: health(own_server)["status"] == "healthy")
    assert waiting_for(own_server) == {}


def test_health_when_the_engine_cannot_come_back_then_degraded_until_its_file_is_back(
    own_server: ServerProcess, model_file: Path
) -> None:
    away = model_file.with_suffix(".away")
    engine = engine_of(own_server, "one")
    shutil.move(model_file, away)
    os.kill(engine, signal.SIGKILL)
    told = wait_until(lambda: health(own_server)["problems"].get("models"))
    assert told.startswith("one: ")
    wait_until(lambda: "can't read the file" in health(own_server)["problems"].get("models", ""))
    assert health(own_server)["status"] == "degraded"
    assert "can't read the file" in waiting_for(own_server)["model"]
    with own_server.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 503
    shutil.move(away, model_file)
    wait_until(lambda: health(own_server)["status"] == "healthy")
    assert waiting_for(own_server) == {}


def test_readiness_when_the_engine_dies_then_ready_and_started_again_without_a_request(
    own_server: ServerProcess,
) -> None:
    """F60: an engine that can be started again counts as ready."""
    with own_server.client() as client:
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        first = engine_of(own_server, "one")
        os.kill(first, signal.SIGKILL)
        found: list[dict[str, str]] = []

        def started_again() -> bool:
            found.append(waiting_for(own_server))
            return find_engine(own_server, "one") not in {first, None}

        wait_until(started_again)
        assert found == [{}] * len(found)
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200


def test_health_when_the_sandbox_backend_is_unknown_then_degraded_with_the_remedy(
    tmp_path: Path,
) -> None:
    with running_server(tmp_path / "data", None, MONKEY_CODER__SANDBOX__BACKEND="chroot") as server:
        told = wait_until(lambda: health(server)["problems"].get("sandbox"))
    assert "'chroot', which is not installed; set it to auto" in told
