"""One server with the starter model, for every end-to-end test that doesn't break it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.bystander import add_user
from tests.support.sandbox_server import small_settings
from tests.support.server_process import ServerProcess, running_server

# The model seldom ends by itself: what it adds after these tokens would only take time.
SHORT = {"MONKEY_CODER__AGENT__MAX_OUTPUT_TOKENS": "100"}


@pytest.fixture(scope="session")
def server(
    starter_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    with running_server(
        tmp_path_factory.mktemp("server") / "data", starter_model, **SHORT
    ) as running:
        running.make_key()
        running.wait_ready()
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with server.client() as opened:
        yield opened


@pytest.fixture(scope="module")
def sandbox_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server without a model, with two concurrent runs and two waiting."""
    home = tmp_path_factory.mktemp("sandbox")
    with running_server(home / "data", None, **small_settings()) as server:
        server.make_key()
        with server.client() as client:
            offer = client.get("/api/v1/sandbox/languages?wait=true").json()
        if not offer["available"]:
            pytest.skip(f"needs sandbox: {offer['problem']}. {offer['remedy']}")
        yield server


@pytest.fixture
def sandbox(sandbox_server: ServerProcess) -> Iterator[httpx.Client]:
    with sandbox_server.client() as client:
        yield client


@pytest.fixture(scope="session")
def attacked(
    starter_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server behind a proxy, so that requests may claim any address; its key is an attacker's.

    `bystander_key` is that of another user.
    """
    home = tmp_path_factory.mktemp("attacked")
    # Each guess costs a password hash until this limit, which is a tenth of the default.
    settings = {
        "MONKEY_CODER__SERVER__TRUSTED_PROXIES": "127.0.0.1",
        "MONKEY_CODER__AUTH__LOGIN_ATTEMPTS_EVERYWHERE": "5",
    }
    with running_server(home / "data", starter_model, **SHORT, **settings) as server:
        server.key = add_user(server, "attacker")
        server.wait_ready()
        with server.client() as client:
            offer = client.get("/api/v1/sandbox/languages?wait=true").json()
        if not offer["available"]:
            pytest.skip(f"needs sandbox: {offer['problem']}. {offer['remedy']}")
        yield server


@pytest.fixture(scope="session")
def bystander_key(attacked: ServerProcess) -> str:
    return add_user(attacked, "bystander")
