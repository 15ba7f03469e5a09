"""/v1/messages over scripted completions: answers, streams, errors, disconnects."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from appliance.domain.messages import (
    Finished,
    FinishReason,
    TextDelta,
    TokenUsage,
    ToolCall,
)
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    DeadlineExceeded,
    Forbidden,
    ModelUnavailable,
    ProviderFailed,
    QueueFull,
    RateLimited,
    UnknownModel,
)
from tests.api.application import settings_with
from tests.api.scripted_completions import (
    HELLO,
    USAGE,
    ScriptedApi,
    disconnecting_client,
    open_scripted,
)
from tests.support.polling import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/v1/messages"
BODY: dict[str, Any] = {
    "model": "starter",
    "max_tokens": 5,
    "messages": [{"role": "user", "content": "hi"}],
}
STREAM = BODY | {"stream": True}
CALL = ToolCall("call_1", "weather", '{"city": "Oslo"}')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedApi]:
    async with open_scripted(tmp_path_factory.mktemp("server"), settings_with()) as api:
        yield api


@pytest.fixture
def scripted(opened: ScriptedApi) -> ScriptedApi:
    opened.service.reset()
    return opened


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its `type`."""
    found: list[dict[str, Any]] = []
    for frame in answer.text.strip().split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


async def test_message_when_answered_then_its_whole_shape(scripted: ScriptedApi) -> None:
    answer = await scripted.client.post(PATH, json=BODY)
    body = answer.json()
    assert answer.status_code == 200
    assert body.pop("id").startswith("msg_")
    assert body == {
        "type": "message",
        "role": "assistant",
        "model": "starter",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_read_input_tokens": 12,
            "cache_creation_input_tokens": 0,
            "output_tokens": 5,
        },
    }
    assert scripted.service.started[0].closed.is_set()


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_message_when_answered_then_the_headers(
    body: dict[str, Any], scripted: ScriptedApi
) -> None:
    headers = (await scripted.client.post(PATH, json=body)).headers
    assert headers["request-id"] == headers["x-request-id"]
    assert headers["x-cache-status"] == "MISS"
    assert headers["x-overhead-ms"] == "1.500"
    assert headers["x-provider-used"] == "llama_cpp"
    assert int(headers["anthropic-ratelimit-requests-remaining"]) > 0
    assert headers["anthropic-ratelimit-requests-reset"].endswith("Z")


async def test_message_when_a_tool_is_called_then_a_block_of_its_own(scripted: ScriptedApi) -> None:
    bare = ToolCall("call_2", "now", "")
    scripted.service.steps = [TextDelta("so"), CALL, bare, Finished(FinishReason.TOOL_CALLS, USAGE)]
    body = (await scripted.client.post(PATH, json=BODY)).json()
    assert body["stop_reason"] == "tool_use"
    assert body["content"][1:] == [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_2", "name": "now", "input": {}},
    ]


STOPS = {
    "the end of the turn": (Finished(FinishReason.STOP, USAGE), "end_turn", None),
    "a stop sequence": (Finished(FinishReason.STOP, USAGE, "END"), "stop_sequence", "END"),
    "the most tokens": (Finished(FinishReason.LENGTH, USAGE), "max_tokens", None),
    "no more room": (
        Finished(FinishReason.LENGTH, TokenUsage(20, 4)),
        "model_context_window_exceeded",
        None,
    ),
    "a filter": (Finished(FinishReason.CONTENT_FILTER, USAGE), "refusal", None),
}


@pytest.mark.parametrize("name", STOPS)
async def test_message_when_it_ends_then_the_reason(name: str, scripted: ScriptedApi) -> None:
    finished, reason, sequence = STOPS[name]
    scripted.service.steps = [TextDelta("a"), finished]
    body = (await scripted.client.post(PATH, json=BODY)).json()
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, sequence)
    delta = events(await scripted.client.post(PATH, json=STREAM))[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": sequence}


async def test_stream_when_text_and_tools_then_the_exact_order(scripted: ScriptedApi) -> None:
    text, more = TextDelta("so"), TextDelta("...")
    end = Finished(FinishReason.TOOL_CALLS, USAGE)
    scripted.service.steps = [TextDelta(""), text, more, CALL, text, end]
    answer = await scripted.client.post(PATH, json=STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    start, *rest = events(answer)
    assert start["message"]["content"] == []
    assert start["message"]["stop_reason"] is None
    assert rest == [
        {"type": "ping"},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "so"}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "..."}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "content_block_start",
            "index": 1,
            "content_block": {"type": "tool_use", "id": "call_1", "name": "weather", "input": {}},
        },
        {
            "type": "content_block_delta",
            "index": 1,
            "delta": {"type": "input_json_delta", "partial_json": '{"city": "Oslo"}'},
        },
        {"type": "content_block_stop", "index": 1},
        {
            "type": "content_block_start",
            "index": 2,
            "content_block": {"type": "text", "text": ""},
        },
        {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "so"}},
        {"type": "content_block_stop", "index": 2},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "tool_use", "stop_sequence": None},
            "usage": {
                "input_tokens": 8,
                "cache_read_input_tokens": 12,
                "cache_creation_input_tokens": 0,
                "output_tokens": 5,
            },
        },
        {"type": "message_stop"},
    ]


async def test_stream_when_the_answer_is_empty_then_no_blocks(scripted: ScriptedApi) -> None:
    scripted.service.steps = [Finished(FinishReason.STOP, USAGE)]
    types = [each["type"] for each in events(await scripted.client.post(PATH, json=STREAM))]
    assert types == ["message_start", "ping", "message_delta", "message_stop"]
    assert (await scripted.client.post(PATH, json=BODY)).json()["content"] == []


FAILURES: dict[str, tuple[list[Any], str]] = {
    "the provider fails": ([ProviderFailed("the engine died")], "api_error"),
    "the time is over": ([DeadlineExceeded("too slow")], "timeout_error"),
    "an internal error": ([RuntimeError("secret")], "api_error"),
    "the end is missing": ([], "api_error"),
    "the arguments are broken": ([ToolCall("c", "weather", '{"city')], "api_error"),
    "the arguments are a list": ([ToolCall("c", "weather", "[]")], "api_error"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_stream_when_it_fails_on_the_way_then_an_error_event(
    name: str, scripted: ScriptedApi
) -> None:
    steps, kind = FAILURES[name]
    scripted.service.steps = [TextDelta("a"), *steps]
    answer = await scripted.client.post(PATH, json=STREAM)
    last = events(answer)[-1]
    assert answer.status_code == 200
    assert last["type"] == "error"
    assert last["error"]["type"] == kind
    assert last["request_id"] == answer.headers["request-id"]
    assert "secret" not in answer.text
    assert scripted.service.started[0].closed.is_set()


@pytest.mark.parametrize("name", FAILURES)
async def test_message_when_it_fails_on_the_way_then_an_error(
    name: str, scripted: ScriptedApi
) -> None:
    steps, kind = FAILURES[name]
    scripted.service.steps = [TextDelta("a"), *steps]
    answer = await scripted.client.post(PATH, json=BODY)
    assert answer.status_code >= 500
    assert answer.json()["error"]["type"] == kind
    assert scripted.service.started[0].closed.is_set()


REFUSALS: dict[str, tuple[ApplianceError, int, str]] = {
    "no such model": (UnknownModel("no model 'x'"), 404, "not_found_error"),
    "a prompt too long": (
        ContextLengthExceeded("prompt is too long"),
        400,
        "invalid_request_error",
    ),
    "no right": (Forbidden("not for viewers"), 403, "permission_error"),
    "too many requests": (RateLimited("slower", retry_after=3), 429, "rate_limit_error"),
    "a full queue": (QueueFull("too many wait", retry_after=3), 529, "overloaded_error"),
    "a model that loads": (ModelUnavailable("loading", retry_after=3), 503, "api_error"),
    "a provider that fails": (ProviderFailed("it died"), 502, "api_error"),
    "a deadline": (DeadlineExceeded("too slow"), 504, "timeout_error"),
}


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_message_when_refused_at_once_then_an_error_in_shape(
    name: str, body: dict[str, Any], scripted: ScriptedApi
) -> None:
    error, status, kind = REFUSALS[name]
    scripted.service.refusal = error
    answer = await scripted.client.post(PATH, json=body)
    told = answer.json()
    assert answer.status_code == status
    assert told["type"] == "error"
    assert told["error"]["type"] == kind
    assert told["error"]["message"] == error.message
    assert told["request_id"] == answer.headers["request-id"]
    assert answer.headers.get("retry-after") == ("3" if error.retry_after else None)


WRONG: dict[str, tuple[str, str, Any, int, str]] = {
    "no tokens": ("POST", PATH, {"model": "m", "messages": BODY["messages"]}, 400, "max_tokens"),
    "no messages": ("POST", PATH, BODY | {"messages": []}, 400, "messages"),
    "a wild temperature": ("POST", PATH, BODY | {"temperature": 1.5}, 400, "temperature"),
    "zero tokens": ("POST", PATH, BODY | {"max_tokens": 0}, 400, "max_tokens"),
    "a role of another kind": (
        "POST",
        PATH,
        BODY | {"messages": [{"role": "tool", "content": "x"}]},
        400,
        "messages[0].role",
    ),
    "another format": (
        "POST",
        PATH,
        BODY | {"output_config": {"format": {"type": "xml", "schema": {}}}},
        400,
        "output_config.format.type",
    ),
    "an array": ("POST", PATH, [], 400, "body"),
    "nothing there": ("GET", f"{PATH}/batches", None, 404, "No resource at this path"),
    "a wrong method": ("GET", PATH, None, 405, "POST"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_request_when_wrong_then_an_error_in_shape(name: str, scripted: ScriptedApi) -> None:
    method, path, body, status, said = WRONG[name]
    answer = await scripted.client.request(method, path, json=body)
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["type"] == kind
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "headers", [{"x-api-key": "wrong"}, {"x-api-key": "", "authorization": "Bearer wrong"}]
)
async def test_message_when_the_key_is_wrong_then_401(
    headers: dict[str, str], scripted: ScriptedApi
) -> None:
    answer = await scripted.client.post(PATH, content=b"{", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"


async def test_count_when_asked_then_only_the_tokens(scripted: ScriptedApi) -> None:
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    answer = await scripted.client.post(f"{PATH}/count_tokens", json=body | {"system": "be brief"})
    assert answer.json() == {"input_tokens": 42}
    assert answer.headers["request-id"]
    assert len(scripted.spec.messages) == 2
    assert scripted.service.started == []


async def test_labels_when_sent_then_part_of_the_ask(scripted: ScriptedApi) -> None:
    await scripted.client.post(PATH, json=BODY, headers={"X-Labels": "secret, repo-1,secret"})
    assert scripted.spec.labels == ("secret", "repo-1")


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_disconnect_when_before_the_start_then_the_start_is_cancelled(
    body: dict[str, Any], scripted: ScriptedApi
) -> None:
    scripted.service.may_start.clear()
    async with disconnecting_client(scripted, PATH, body) as leave:
        await scripted.service.waiting.wait()
        leave.set()
    assert scripted.service.cancelled.is_set()


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_disconnect_when_in_the_stream_then_the_completion_is_closed(
    body: dict[str, Any], scripted: ScriptedApi
) -> None:
    scripted.service.steps = [TextDelta("a"), None, *HELLO]
    async with disconnecting_client(scripted, PATH, body) as leave:
        await scripted.service.waiting.wait()
        await until(lambda: scripted.service.started)
        async with asyncio.timeout(10):
            await scripted.service.started[0].stalled.wait()
            leave.set()
            await scripted.service.started[0].closed.wait()


async def test_disconnect_when_before_the_first_event_then_the_completion_is_closed(
    scripted: ScriptedApi,
) -> None:
    async with disconnecting_client(scripted, PATH, STREAM, refuses_headers=True):
        async with asyncio.timeout(10):
            await scripted.service.waiting.wait()
    assert scripted.service.started[0].closed.is_set()
