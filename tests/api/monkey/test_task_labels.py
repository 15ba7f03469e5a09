"""Labels of a task: a local-only label is never sent to a remote provider."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings, PolicySettings
from appliance.domain.messages import CompletionRequest
from tests.api.application import open_api, settings_with
from tests.support.agent_fakes import UnconfinedRunner
from tests.support.gateway_parts import PERMANENT, Scripted, gateway_over, route

NEAR = "```python\nnear = 1\n```"
FAR = "```python\nfar = 1\n```"
ASKED: dict[str, Any] = {"prompt": "Write it in Python", "quantum_config": {"n": 1}}
WHY = "'secret' never leaves this machine"


class Watched(Scripted):
    """Records requests to count tokens, too."""

    counted = 0

    async def count_tokens(self, request: CompletionRequest) -> int:
        self.counted += 1
        return await super().count_tokens(request)


@dataclass
class Labelled:
    client: httpx.AsyncClient
    far: Watched
    near: Watched

    async def execute(self, *labels: str, header: str = "", **more: Any) -> httpx.Response:
        body = ASKED | {"labels": list(labels)} | more
        return await self.client.post("/api/v1/execute", json=body, headers={"X-Labels": header})

    @property
    def sent_to_remote(self) -> bool:
        return bool(self.far.requests or self.far.counted)


@pytest.fixture
def near() -> Watched:
    return Watched(NEAR)


@pytest.fixture
async def server(tmp_path: Path, near: Watched) -> AsyncIterator[Labelled]:
    """A server whose default model is remote; the route "smart" falls back to a local one."""
    far = Watched(FAR, name="far", local=False, models=("m",))
    policy = PolicySettings(local_only_labels=("secret",))
    gateway = gateway_over(
        far, near, default="far/m", policy=policy, routes=route("far/m", "near/model")
    )
    agent = CodingAgent(gateway, UnconfinedRunner(), AgentSettings())
    async with (
        open_api(tmp_path / "server.db", settings_with(), agent.run) as api,
        api.client() as client,
    ):
        yield Labelled(client, far, near)


@pytest.mark.parametrize("model", ["far/m", "smart", None])
async def test_task_when_its_labels_bar_nobody_then_the_far_model_serves_it(
    model: str | None, server: Labelled
) -> None:
    answer = await server.execute("public", header="open", model=model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["provider_used"] == "far"
    assert server.near.requests == []


@pytest.mark.parametrize("model", ["near/model", "smart", None])
@pytest.mark.parametrize(("labels", "header"), [(("public", " secret "), ""), ((), "a, secret")])
async def test_task_when_its_label_must_stay_then_a_local_model_serves_it(
    model: str | None, labels: tuple[str, ...], header: str, server: Labelled
) -> None:
    answer = await server.execute(*labels, header=header, model=model)
    assert answer.status_code == 200, answer.text
    assert answer.json()["metadata"]["provider_used"] == "near"
    assert "near = 1" in answer.json()["result"]["result"]
    assert not server.sent_to_remote


async def test_task_when_only_a_barred_model_was_named_then_403_and_it_failed(
    server: Labelled,
) -> None:
    answer = await server.execute("secret", model="far/m")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (403, "FORBIDDEN")
    assert WHY in error["message"]
    task = (await server.client.get(f"/api/v1/tasks/{error['details']['task_id']}")).json()
    assert (task["status"], task["error"]["code"]) == ("failed", "FORBIDDEN")
    assert WHY in task["error"]["message"]
    assert not server.sent_to_remote


async def test_task_when_it_streams_and_is_barred_then_the_stream_ends_with_why(
    server: Labelled,
) -> None:
    body = ASKED | {"model": "far/m"}
    headers = {"X-Labels": "secret"}
    answer = await server.client.post("/api/v1/execute/stream", json=body, headers=headers)
    assert answer.status_code == 200
    assert '"code":"FORBIDDEN"' in answer.text
    assert WHY in answer.text
    assert not server.sent_to_remote


@pytest.mark.parametrize("near", [Watched(PERMANENT)])
async def test_task_when_the_local_model_fails_then_no_remote_one_replaces_it(
    near: Watched, server: Labelled
) -> None:
    answer = await server.execute("secret", model="smart")
    assert answer.json()["status"] == "failed"
    assert near.requests
    assert not server.sent_to_remote


async def test_task_when_sent_again_with_another_label_then_conflict(server: Labelled) -> None:
    assert (await server.execute("a", task_id="mine")).status_code == 200
    assert (await server.execute(header="a", task_id="mine")).status_code == 200
    assert (await server.execute("a", "b", task_id="mine")).status_code == 409


@pytest.mark.parametrize(
    ("header", "field"),
    [(",".join(str(n) for n in range(65)), "X-Labels"), ("x" * 201, "X-Labels")],
)
async def test_task_when_the_header_holds_too_much_then_refused(
    header: str, field: str, server: Labelled
) -> None:
    answer = await server.execute(header=header)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == field
