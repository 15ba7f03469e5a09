"""Mutated requests of every dialect: never a 5xx without a reason, and never a hang.

The provider answers at once, so that what takes long is the server's own doing. A failure prints
a command that sends the request again.
"""

import time
from collections.abc import Iterator

import httpx
import pytest

from tests.support import plugin_provider
from tests.support.request_mutations import Mutator, WireRequest
from tests.support.server_process import ServerProcess, running_server
from tests.support.valid_requests import DIALECTS

EVERY = tuple(request for requests in DIALECTS.values() for request in requests)
WORKING = {"tasks", "sandbox", "piston"}
MAX_S = 1.0
DEADLINE_S = 30.0
DOCUMENTED = {501, 503}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("fuzz")
    installed = plugin_provider.install(home / "plugins")
    with running_server(home / "data", None, **installed) as server:
        server.make_key()
        server.wait_ready()
        yield server


def send(client: httpx.Client, request: WireRequest) -> httpx.Response:
    headers = {name.encode(): value.encode("latin-1") for name, value in request.headers.items()}
    return client.request(
        request.method, request.path, content=request.body, headers=headers, timeout=DEADLINE_S
    )


def problem_of(client: httpx.Client, request: WireRequest, *, timed: bool) -> str:
    """What is wrong with the answer; "" if nothing is."""
    started = time.monotonic()
    try:
        answer = send(client, request)
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - started
    if answer.status_code >= 500:
        reason = answer.text if answer.status_code in DOCUMENTED else ""
        return "" if '"message"' in reason else f"{answer.status_code}: {answer.text[:500]}"
    if timed and seconds > MAX_S and not request.works:
        # A busy machine is not the request's doing: what hangs does so again.
        again = min(_seconds(client, request) for _ in range(3))
        return f"took {again:.2f} s" if again > MAX_S else ""
    return ""


def _seconds(client: httpx.Client, request: WireRequest) -> float:
    started = time.monotonic()
    send(client, request)
    return time.monotonic() - started


def fuzz(server: ServerProcess, dialect: str, seed: int, count: int, *, timed: bool) -> None:
    mutator = Mutator(f"{dialect} {seed}", EVERY)
    found: dict[str, str] = {}
    with server.client() as client:
        for number, request in enumerate(mutator.mutations(DIALECTS[dialect], count)):
            if problem := problem_of(client, request, timed=timed):
                found.setdefault(problem[:80], f"#{number} {problem}\n{request.reproduction('')}")
    assert not found, "\n\n".join(found.values())
    assert httpx.get(f"{server.url}/health/readiness").status_code == 200, server.log.read_text()


@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_request_when_mutated_then_answered_without_a_server_error(
    dialect: str, server: ServerProcess
) -> None:
    fuzz(server, dialect, 1, 20 if dialect in WORKING else 200, timed=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("dialect", list(DIALECTS))
def test_request_when_mutated_thousands_of_times_then_it_neither_fails_nor_hangs(
    dialect: str, server: ServerProcess
) -> None:
    fuzz(server, dialect, 2, 400 if dialect in WORKING else 6000, timed=True)
