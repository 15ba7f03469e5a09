"""/api/v1/tasks: get, list, cancel, delete; other users' tasks are hidden."""

from contextlib import aclosing

import httpx
import pytest

from appliance.domain.tasks import EventKind, ExecuteEvent, Persona, Task, TaskRequest, TaskType
from tests.api.application import Api
from tests.support.polling import until


async def test_task_when_ended_then_what_execute_answered(client: httpx.AsyncClient) -> None:
    answered = (await client.post("/api/v1/execute", json={"prompt": "Do it"})).json()
    found = await client.get(f"/api/v1/tasks/{answered['task_id']}")
    assert found.status_code == 200
    assert found.json() == answered


async def test_task_when_waiting_or_running_then_this_dialects_names(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    tasks = [await api.system.submit(api.system.alice, f"number {number}") for number in range(3)]
    await until(lambda: len(api.script.seen) == 2)
    answers = [(await client.get(f"/api/v1/tasks/{task.public_id}")).json() for task in tasks]
    assert [each["status"] for each in answers] == ["in_progress", "in_progress", "pending"]
    waiting = answers[2]
    assert (waiting["result"], waiting["usage"], waiting["verification"]) == (None, None, None)
    assert (waiting["started_at"], waiting["completed_at"]) == (None, None)
    assert waiting["metadata"]["quantum_branches"] == 0


@pytest.mark.parametrize("user", ["bob", "viewer"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/events")]
)
async def test_task_when_of_another_user_then_as_if_there_were_none(
    user: str, method: str, path: str, api: Api, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
    async with api.client(user) as other:
        theirs = await other.request(method, f"/api/v1/tasks/mine{path}")
        none = await other.request(method, f"/api/v1/tasks/none{path}")
    assert theirs.status_code == none.status_code
    assert theirs.status_code in (404, 403)
    assert theirs.json()["error"]["code"] == none.json()["error"]["code"]


async def test_task_when_an_administrator_asks_then_found(
    api: Api, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
    async with api.client("admin") as admin:
        assert (await admin.get("/api/v1/tasks/mine")).json()["status"] == "completed"


async def test_delete_when_ended_then_204_and_404_afterwards(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
    deleted = await client.delete("/api/v1/tasks/mine")
    assert (deleted.status_code, deleted.content) == (204, b"")
    for method in ("GET", "DELETE"):
        assert (await client.request(method, "/api/v1/tasks/mine")).status_code == 404


async def test_delete_when_running_then_409_with_the_status(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    task = await api.system.submit(api.system.alice)
    await until(lambda: len(api.script.seen) == 1)
    refused = await client.delete(f"/api/v1/tasks/{task.public_id}")
    assert refused.status_code == 409
    assert refused.json()["error"]["details"] == {"status": "running"}


async def test_delete_when_an_administrator_names_the_owner_then_any_user_s_task(
    api: Api, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
    async with api.client("admin") as admin:
        await admin.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
        assert (await admin.delete("/api/v1/tasks/mine")).status_code == 204
        for method, path in (("DELETE", ""), ("POST", "/cancel")):
            repeated = await admin.request(method, f"/api/v1/tasks/mine{path}")
            assert repeated.status_code == 409
            assert "?user=USERNAME" in repeated.json()["message"]
        assert (await admin.delete("/api/v1/tasks/mine?user=alice")).status_code == 204
    assert (await client.get("/api/v1/tasks/mine")).status_code == 404


async def test_task_when_several_users_have_the_id_then_an_administrator_names_the_owner(
    api: Api, client: httpx.AsyncClient
) -> None:
    for user in (api.system.alice, api.system.bob):
        await api.system.submit(user, "Do it", client_task_id="same")
    path = "/api/v1/tasks/same"
    async with api.client("admin") as admin:
        for method, suffix in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/cancel"),
            ("GET", "/events"),
        ):
            refused = await admin.request(method, path + suffix)
            assert refused.status_code == 409
            assert "?user=USERNAME" in refused.json()["message"]
            assert refused.json()["error"]["details"]["users"] == ["alice", "bob"]
        await admin.get(f"{path}/events?user=bob")  # until it has ended
        assert (await admin.delete(f"{path}?user=Bob")).status_code == 204
        assert (await admin.get(f"{path}?user=bob")).status_code == 404
        assert (await admin.get(f"{path}?user=nobody")).status_code == 404
        invalid = await admin.get(f"{path}?user={'x' * 257}")
        assert invalid.json()["error"]["details"]["field"] == "user"
    assert (await client.get(path)).status_code == 200
    assert (await client.get(f"{path}?user=alice")).status_code == 403


async def test_list_when_paged_then_every_task_once_newest_first(
    api: Api, client: httpx.AsyncClient
) -> None:
    made = [await api.system.submit(api.system.alice, f"number {number}") for number in range(5)]
    await api.system.submit(api.system.bob, "of another")
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (
            await client.get(
                "/api/v1/tasks", params={"limit": 2, "cursor": cursor} if cursor else {"limit": 2}
            )
        ).json()
        found += [task["prompt"] for task in page["tasks"]]
        cursor = page["next_cursor"]
    assert found == [task.request_as(TaskRequest).prompt for task in reversed(made)]


async def test_list_when_no_persona_was_requested_then_the_one_of_the_task_s_type(
    api: Api, client: httpx.AsyncClient
) -> None:
    await api.system.submit(api.system.alice, task_type=TaskType.CODE_REVIEW)
    await api.system.submit(api.system.alice, persona=Persona.TESTER)
    page = (await client.get("/api/v1/tasks")).json()
    assert [each["persona"] for each in page["tasks"]] == ["tester", "reviewer"]


async def test_list_when_filtered_by_kind_and_origin_then_unknown_ones_are_named(
    api: Api, client: httpx.AsyncClient
) -> None:
    task = await api.system.submit(api.system.alice)
    page = (await client.get("/api/v1/tasks?kind=execute&origin=monkey")).json()
    assert [each["task_id"] for each in page["tasks"]] == [task.public_id]
    for name, allowed in (("kind", "execute"), ("origin", "monkey")):
        answer = await client.get(f"/api/v1/tasks?{name}=other")
        assert answer.status_code == 400
        assert answer.json()["message"] == f"{name}: must be one of: {allowed}"


async def test_list_when_filtered_by_status_then_only_those(
    api: Api, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "done"})
    api.script.hold()
    await api.system.submit(api.system.alice, "running")
    await until(lambda: len(api.script.seen) == 2)
    for status, count in {"completed": 1, "in_progress": 1, "running": 1, "failed": 0}.items():
        page = (await client.get("/api/v1/tasks", params={"status": status})).json()
        assert len(page["tasks"]) == count, status


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=many", "limit"),
        ("status=lost", "status"),
        ("cursor=!!!", "cursor"),
    ],
)
async def test_list_when_the_query_is_wrong_then_the_field(
    query: str, field: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"/api/v1/tasks?{query}")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == field


async def test_cancel_when_ended_already_then_conflict(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/execute", json={"prompt": "Do it", "task_id": "mine"})
    answer = await client.post("/api/v1/tasks/mine/cancel")
    assert answer.status_code == 409
    assert answer.json()["error"]["code"] == "TASK_NOT_CANCELLABLE"


async def test_cancel_when_running_then_cancelled_with_the_reason(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    task = await api.system.submit(api.system.alice)
    await until(lambda: bool(api.script.seen))
    body = (await client.post(f"/api/v1/tasks/{task.public_id}/cancel")).json()
    assert (body["status"], body["error"]["code"]) == ("cancelled", "TASK_CANCELLED")


async def test_cancel_when_models_were_called_then_the_usage_so_far(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    used = {"prompt_tokens": 40, "completion_tokens": 20}
    call = {"usage": used, "provider": "far", "model": "m", "cost": 0.5}
    api.script.steps = (
        (ExecuteEvent.PLANNED, {"provider": "near", "model": "n"}),
        (ExecuteEvent.CANDIDATE, {"usage": used}),
        (EventKind.PROGRESS, {"inputs": {"calls": [], **call}}),
        (ExecuteEvent.CODE, {"content": ""}),
    )
    task = await api.system.submit(api.system.alice)
    await until_journal_has(api, task, ExecuteEvent.CODE)
    cancelled = (await client.post(f"/api/v1/tasks/{task.public_id}/cancel")).json()
    assert cancelled["usage"]["provider_breakdown"] == {"near": 60, "far": 60}
    assert (cancelled["usage"]["tokens_input"], cancelled["usage"]["cost_estimate"]) == (80, 0.5)
    assert cancelled["metadata"]["tokens_used"] == 120
    assert (await client.get(f"/api/v1/tasks/{task.public_id}")).json() == cancelled


async def until_journal_has(api: Api, task: Task, kind: str) -> None:
    events = api.services.tasks.events(api.system.alice, task.public_id)
    async with aclosing(events):
        async for event in events:
            if event.kind is kind:
                return
