"""/v1/responses over scripted completions: answers, streams, errors, disconnects."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from appliance.domain.messages import (
    Finished,
    FinishReason,
    Likelihood,
    TextDelta,
    TokenLikelihood,
    ToolCall,
)
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
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

PATH = "/v1/responses"
BODY: dict[str, Any] = {"model": "starter", "input": "hi"}
STREAM = BODY | {"stream": True}
CALL = ToolCall("call_1", "weather", '{"city": "Oslo"}')
DRAWN = TokenLikelihood(
    Likelihood("Hel", -0.5, b"Hel"), (Likelihood("Hel", -0.5, b"Hel"), Likelihood("x", -2.0, b"x"))
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ScriptedApi]:
    async with open_scripted(tmp_path_factory.mktemp("server"), settings_with()) as api:
        yield api


@pytest.fixture
def scripted(opened: ScriptedApi) -> ScriptedApi:
    opened.service.reset()
    return opened


def events(answer: httpx.Response) -> list[dict[str, Any]]:
    """The events of a stream; each is named as its `type`, and they are numbered."""
    found: list[dict[str, Any]] = []
    for frame in answer.text.strip().split("\n\n"):
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
        assert found[-1]["sequence_number"] == len(found) - 1
    return found


async def test_response_when_answered_then_its_shape(scripted: ScriptedApi) -> None:
    asked = BODY | {"instructions": "be brief", "metadata": {"a": "b"}, "max_output_tokens": 9}
    answer = await scripted.client.post(PATH, json=asked)
    body = answer.json()
    assert answer.status_code == 200
    assert body["id"].startswith("resp_")
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "starter")
    assert body["instructions"] == "be brief"
    assert body["metadata"] == {"a": "b"}
    assert body["max_output_tokens"] == 9
    assert "store" not in body
    assert body["output"][0]["content"] == [
        {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    ]
    assert body["usage"] == {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 12, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 25,
    }
    assert scripted.service.started[0].closed.is_set()


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
async def test_response_when_answered_then_the_headers(
    body: dict[str, Any], scripted: ScriptedApi
) -> None:
    headers = (await scripted.client.post(PATH, json=body)).headers
    assert headers["x-request-id"]
    assert headers["x-cache-status"] == "MISS"
    assert headers["x-overhead-ms"] == "1.500"
    assert headers["x-provider-used"] == "llama_cpp"
    assert int(headers["x-ratelimit-remaining-requests"]) > 0


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
async def test_response_when_it_takes_long_then_created_at_is_when_it_was_requested(
    reason: FinishReason, scripted: ScriptedApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.service.steps = [TextDelta("a"), Finished(reason, USAGE)]
    scripted.service.may_start.clear()
    posted = asyncio.create_task(scripted.client.post(PATH, json=BODY))
    await scripted.service.waiting.wait()
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    scripted.service.may_start.set()
    body = (await posted).json()
    assert later - 100 - 60 < body["created_at"] <= later - 100
    assert body["completed_at"] == (int(later) if reason is FinishReason.STOP else None)


async def test_response_when_tools_are_called_then_items_of_their_own(
    scripted: ScriptedApi,
) -> None:
    second = ToolCall("call_2", "now", "")
    end = Finished(FinishReason.TOOL_CALLS, USAGE)
    scripted.service.steps = [TextDelta("so"), CALL, second, end]
    body = (await scripted.client.post(PATH, json=BODY)).json()
    assert body["status"] == "completed"
    assert [item["type"] for item in body["output"]] == ["message", *["function_call"] * 2]
    first, other = body["output"][1:]
    assert (first["call_id"], first["name"]) == ("call_1", "weather")
    assert first["arguments"] == '{"city": "Oslo"}'
    assert other["arguments"] == "{}"
    assert len({item["id"] for item in body["output"]}) == 3


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        (FinishReason.LENGTH, "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
    ],
)
async def test_response_when_cut_short_then_incomplete(
    reason: FinishReason, told: str, scripted: ScriptedApi
) -> None:
    scripted.service.steps = [TextDelta("a"), Finished(reason, USAGE)]
    body = (await scripted.client.post(PATH, json=BODY)).json()
    assert body["status"] == body["output"][0]["status"] == "incomplete"
    assert body["incomplete_details"] == {"reason": told}
    last = events(await scripted.client.post(PATH, json=STREAM))[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"]["incomplete_details"] == {"reason": told}


async def test_stream_when_text_and_a_tool_then_the_exact_order(scripted: ScriptedApi) -> None:
    text, end = TextDelta("so"), Finished(FinishReason.TOOL_CALLS, USAGE)
    scripted.service.steps = [TextDelta(""), text, text, CALL, end]
    answer = await scripted.client.post(PATH, json=STREAM)
    told = events(answer)
    assert [each["type"].removeprefix("response.") for each in told] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]  # fmt: skip
    assert told[0]["response"]["output"] == told[1]["response"]["output"] == []
    assert told[2]["item"]["content"] == []
    assert {each["item_id"] for each in told[3:8]} == {told[2]["item"]["id"]}
    assert [each["output_index"] for each in told[2:13]] == [0] * 7 + [1] * 4
    assert told[6]["text"] == told[8]["item"]["content"][0]["text"] == "soso"
    assert told[9]["item"]["arguments"] == ""
    assert told[11]["arguments"] == told[12]["item"]["arguments"] == '{"city": "Oslo"}'
    final = told[-1]["response"]
    assert final["id"] == told[0]["response"]["id"]
    assert final["output"] == [told[8]["item"], told[12]["item"]]


async def test_logprobs_when_asked_for_then_with_the_text(scripted: ScriptedApi) -> None:
    scripted.service.steps = [
        TextDelta("Hel", (DRAWN,)),
        TextDelta("lo"),
        Finished(FinishReason.STOP, USAGE),
    ]
    body = (await scripted.client.post(PATH, json=BODY | {"top_logprobs": 2})).json()
    assert body["top_logprobs"] == 2
    (told,) = body["output"][0]["content"][0]["logprobs"]
    assert (told["token"], told["logprob"], told["bytes"]) == ("Hel", -0.5, [72, 101, 108])
    assert [each["token"] for each in told["top_logprobs"]] == ["Hel", "x"]
    streamed = events(await scripted.client.post(PATH, json=STREAM | {"top_logprobs": 2}))
    assert streamed[4]["logprobs"] == streamed[6]["logprobs"] == [told]


FAILURES: dict[str, tuple[list[Any], str]] = {
    "the provider fails": ([ProviderFailed("the engine died")], "server_error"),
    "too much was asked": ([RateLimited("slower")], "rate_limit_exceeded"),
    "the prompt is bad": ([InvalidInput("no")], "invalid_prompt"),
    "an internal error": ([RuntimeError("secret")], "server_error"),
    "the end is missing": ([], "server_error"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_stream_when_it_fails_on_the_way_then_a_failed_response(
    name: str, scripted: ScriptedApi
) -> None:
    steps, code = FAILURES[name]
    scripted.service.steps = [TextDelta("a"), *steps]
    answer = await scripted.client.post(PATH, json=STREAM)
    last = events(answer)[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == code
    assert last["response"]["output"][0]["status"] == "incomplete"
    assert "secret" not in answer.text
    assert scripted.service.started[0].closed.is_set()


@pytest.mark.parametrize("name", FAILURES)
async def test_response_when_it_fails_on_the_way_then_an_error(
    name: str, scripted: ScriptedApi
) -> None:
    steps, _ = FAILURES[name]
    scripted.service.steps = [TextDelta("a"), *steps]
    answer = await scripted.client.post(PATH, json=BODY)
    assert answer.status_code >= 400
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert scripted.service.started[0].closed.is_set()


REFUSALS: dict[str, tuple[ApplianceError, int, str, str]] = {
    "no such model": (
        UnknownModel("no model 'x'"),
        404,
        "invalid_request_error",
        "model_not_found",
    ),
    "a prompt too long": (
        ContextLengthExceeded("more than the maximum context length"),
        400,
        "invalid_request_error",
        "context_length_exceeded",
    ),
    "too many requests": (
        RateLimited("slower", retry_after=3),
        429,
        "rate_limit_error",
        "rate_limit_exceeded",
    ),
    "a full queue": (QueueFull("many wait", retry_after=3), 503, "server_error", "queue_full"),
    "a model that loads": (
        ModelUnavailable("loading", retry_after=3),
        503,
        "server_error",
        "model_unavailable",
    ),
}


@pytest.mark.parametrize("body", [BODY, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("name", REFUSALS)
async def test_response_when_refused_at_once_then_an_error_in_shape(
    name: str, body: dict[str, Any], scripted: ScriptedApi
) -> None:
    error, status, kind, code = REFUSALS[name]
    scripted.service.refusal = error
    answer = await scripted.client.post(PATH, json=body)
    told = answer.json()["error"]
    assert answer.status_code == status
    assert (told["type"], told["code"], told["message"]) == (kind, code, error.message)
    assert answer.headers.get("retry-after") == ("3" if error.retry_after else None)


WRONG: dict[str, tuple[str, str, Any, int, str | None]] = {
    "no input": ("POST", PATH, {"model": "m"}, 400, "input"),
    "a field that is not possible": ("POST", PATH, BODY | {"store": True}, 400, "store"),
    "a wild temperature": ("POST", PATH, BODY | {"temperature": 3}, 400, "temperature"),
    "zero tokens": ("POST", PATH, BODY | {"max_output_tokens": 0}, 400, "max_output_tokens"),
    "another format": (
        "POST",
        PATH,
        BODY | {"text": {"format": {"type": "xml"}}},
        400,
        "text.format.type",
    ),
    "metadata of a wrong type": ("POST", PATH, BODY | {"metadata": {"a": 1}}, 400, None),
    "a stored response": ("GET", f"{PATH}/resp_1", None, 404, None),
    "a wrong method": ("GET", PATH, None, 405, None),
}


@pytest.mark.parametrize("name", WRONG)
async def test_request_when_wrong_then_an_error_in_shape(name: str, scripted: ScriptedApi) -> None:
    method, path, body, status, field = WRONG[name]
    answer = await scripted.client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    if field:
        assert error["param"] == field


async def test_input_tokens_when_asked_then_only_counted(scripted: ScriptedApi) -> None:
    answer = await scripted.client.post(f"{PATH}/input_tokens", json=BODY)
    assert answer.json() == {"object": "response.input_tokens", "input_tokens": 42}
    assert scripted.service.started == []


async def test_labels_when_sent_then_part_of_the_ask(scripted: ScriptedApi) -> None:
    body = BODY | {"metadata": {"labels": "repo-1, secret"}}
    await scripted.client.post(PATH, json=body, headers={"X-Labels": "secret"})
    assert scripted.spec.labels == ("secret", "repo-1")


async def test_labels_when_too_many_then_refused(scripted: ScriptedApi) -> None:
    labels = ",".join(str(number) for number in range(65))
    answer = await scripted.client.post(PATH, json=BODY, headers={"X-Labels": labels})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "X-Labels"


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
