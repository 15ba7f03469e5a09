"""Requests made from the server's own OpenAPI document: never a 5xx without a reason.

Schemathesis makes both requests that fit the document and requests that don't. The provider
answers at once.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import httpx
import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase

from tests.support import plugin_provider
from tests.support.server_process import ServerProcess, running_server

DEADLINE_S = 30.0
DOCUMENTED = {501, 503}
# The annotations of Schemathesis are incomplete.
Operation: TypeAlias = Any
Case: TypeAlias = Any
WORKING = ("/execute", "/sandbox/run")
ENDLESS = ("/api/v1/events",)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("openapi")
    installed = plugin_provider.install(home / "plugins")
    with running_server(home / "data", None, **installed) as server:
        server.make_key()
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def operations(server: ServerProcess) -> list[Operation]:
    document = httpx.get(f"{server.url}/api/docs/openapi.json").json()
    schema: Any = schemathesis.openapi.from_dict(document)
    found = [result.ok() for result in schema.get_all_operations()]
    return [operation for operation in found if operation.path not in ENDLESS]


def problem_of(server: ServerProcess, case: Case) -> str:
    """What is wrong with the answer; "" if nothing is."""
    headers = {"Authorization": f"Bearer {server.key}"}
    try:
        answer = case.call(server.url, headers=headers, timeout=DEADLINE_S)
    except requests.RequestException as error:
        return f"{type(error).__name__}: {error}"
    if answer.status_code < 500:
        return ""
    reason = answer.text if answer.status_code in DOCUMENTED else ""
    return "" if '"message"' in reason else f"{answer.status_code}: {answer.text[:500]}"


def modes(
    operation: Operation,
) -> list[schemathesis.GenerationMode]:
    """What takes neither parameters nor a body can't be given wrong ones."""
    takes_any = bool(operation.body) or any(operation.iter_parameters())
    return (
        list(schemathesis.GenerationMode) if takes_any else [schemathesis.GenerationMode.POSITIVE]
    )


def fuzz(
    server: ServerProcess,
    operations: list[Operation],
    examples: Callable[[str], int],
) -> None:
    found: dict[str, str] = {}

    def check(case: Case) -> None:
        if problem := problem_of(server, case):
            found.setdefault(problem[:80], f"{problem}\n{case.as_curl_command()}")

    for operation in operations:
        for mode in modes(operation):
            settings = hypothesis.settings(
                max_examples=examples(operation.path),
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            )
            settings(hypothesis.given(operation.as_strategy(mode))(check))()
    assert not found, "\n\n".join(found.values())
    assert httpx.get(f"{server.url}/health/readiness").status_code == 200, server.log.read_text()


def test_request_when_made_from_the_document_then_answered_without_a_server_error(
    server: ServerProcess, operations: list[Operation]
) -> None:
    fuzz(server, operations, lambda path: 1 if path.endswith(WORKING) else 4)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_request_when_thousands_are_made_from_the_document_then_no_server_error(
    server: ServerProcess, operations: list[Operation]
) -> None:
    fuzz(server, operations, lambda path: 30 if path.endswith(WORKING) else 300)
