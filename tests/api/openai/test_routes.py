"""/v1 as OpenAI's clients use it: answers, headers, models and errors."""

import base64
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.config.settings import LimitSettings
from appliance.domain.completions import CacheStatus, CompletionReport
from appliance.domain.messages import Finished, FinishReason, TextDelta, TokenUsage, ToolCall
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    QueueFull,
    RateLimited,
    UnknownModel,
)
from tests.api.application import settings_with
from tests.api.openai_application import OpenAiApi, open_openai
from tests.api.scripted_completions import ScriptedApi, disconnecting_client
from tests.support.polling import until

CHAT: dict[str, Any] = {"model": "starter", "messages": [{"role": "user", "content": "hi"}]}
CHATS, PLAIN = "/v1/chat/completions", "/v1/completions"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[OpenAiApi]:
    async with open_openai(tmp_path, settings_with()) as opened:
        yield opened


@pytest.fixture
async def client(api: OpenAiApi) -> AsyncIterator[httpx.AsyncClient]:
    async with api.client() as opened:
        yield opened


def said(text: str, tokens: int = 1) -> tuple[Any, ...]:
    return (TextDelta(text), Finished(FinishReason.STOP, TokenUsage(20, tokens, 12)))


async def test_chat_when_asked_then_the_answer_and_its_headers(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    answer = await client.post(CHATS, json=CHAT | {"service_tier": "flex"})
    body = answer.json()
    assert answer.status_code == 200, answer.text
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "starter"
    assert body["system_fingerprint"].startswith("fp_")
    assert body["service_tier"] == "flex"
    assert body["choices"][0]["message"]["content"] == "Hello"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == 25
    headers = answer.headers
    assert (headers["x-cache-status"], headers["x-overhead-ms"]) == ("MISS", "1.500")
    assert headers["x-provider-used"] == "llama_cpp"
    assert headers["x-request-id"].startswith("req_")
    assert int(headers["openai-processing-ms"]) >= 0
    assert int(headers["x-ratelimit-remaining-requests"]) < 100_000
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert all(each.closed.is_set() for each in api.service.started)


async def test_chat_when_labelled_then_the_labels_are_in_the_spec(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    body = CHAT | {"metadata": {"labels": "repo-a, repo-b"}}
    await client.post(CHATS, json=body, headers={"X-Labels": "repo-b,secret"})
    assert api.service.specs[0].labels == ("repo-b", "secret", "repo-a")


async def test_chat_when_several_choices_then_each_with_its_index(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.scripts = [said("a", 1), said("b", 2), said("c", 3)]
    body = (await client.post(CHATS, json=CHAT | {"n": 3})).json()
    texts = [(each["index"], each["message"]["content"]) for each in body["choices"]]
    assert texts == [(0, "a"), (1, "b"), (2, "c")]
    assert body["usage"]["prompt_tokens"] == 20
    assert body["usage"]["completion_tokens"] == 6
    assert all(each.closed.is_set() for each in api.service.started)


async def test_chat_when_one_choice_fails_then_an_error_and_all_are_closed(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.scripts = [said("a"), (ProviderFailed("it broke"),), (None,)]
    answer = await client.post(CHATS, json=CHAT | {"n": 3})
    assert answer.status_code == 502
    assert answer.json()["error"]["message"] == "it broke"
    assert [each.closed.is_set() for each in api.service.started] == [True] * 3


@pytest.mark.parametrize("streamed", [False, True])
async def test_chat_when_it_ends_without_saying_why_then_an_error(
    streamed: bool, api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.steps = (TextDelta("half"),)
    answer = await client.post(CHATS, json=CHAT | {"stream": streamed})
    assert "ended without a finish reason" in answer.text
    assert "[DONE]" not in answer.text


async def test_completion_when_several_prompts_then_choices_in_their_order(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    body = {"model": "starter", "prompt": ["a", "b"], "n": 2, "echo": True}
    answer = (await client.post(PLAIN, json=body)).json()
    assert answer["id"].startswith("cmpl-")
    texts = [(each["index"], each["text"]) for each in answer["choices"]]
    assert texts == [(0, "aHello"), (1, "aHello"), (2, "bHello"), (3, "bHello")]
    assert answer["usage"]["prompt_tokens"] == 40
    assert answer["usage"]["completion_tokens"] == 20


async def test_completion_when_one_prompt_is_refused_then_the_others_are_closed(
    api: OpenAiApi, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = api.service.start

    async def second_refused(principal: Any, spec: Any, choices: int = 1) -> Any:
        if spec.raw.text == "b":
            await until(lambda: api.service.started)
            raise ContextLengthExceeded("too long")
        return await start(principal, spec, choices)

    monkeypatch.setattr(api.service, "start", second_refused)
    answer = await client.post(PLAIN, json={"prompt": ["a", "b"]})
    assert answer.status_code == 400
    assert [each.closed.is_set() for each in api.service.started] == [True]


async def test_embeddings_when_asked_then_floats_or_base64(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    body: dict[str, Any] = {"model": "starter", "input": ["a", "b"], "dimensions": 2}
    plain = (await client.post("/v1/embeddings", json=body)).json()
    packed = (await client.post("/v1/embeddings", json=body | {"encoding_format": "base64"})).json()
    assert [each["index"] for each in plain["data"]] == [0, 1]
    assert plain["data"][0]["embedding"] == [0.6, -0.8]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    vector = struct.unpack("<2f", base64.b64decode(packed["data"][1]["embedding"]))
    assert vector == pytest.approx((0.6, -0.8))
    assert api.service.embedded[0].dimensions == 2


async def test_models_when_listed_then_for_both_kinds_of_clients(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    assert [each["id"] for each in body["data"]] == ["starter", "gpt", "openai/starter"]
    assert body["data"][0]["object"] == "model"
    assert body["data"][0]["owned_by"] == "llama_cpp"
    assert body["data"][0]["context_length"] == 2048
    assert (body["count"], body["default"], body["provider_filter"]) == (3, "starter", None)
    assert [each["id"] for each in body["models"]["openai"]] == ["gpt", "openai/starter"]
    some = (await client.get("/v1/models?provider=openai")).json()
    assert [each["id"] for each in some["data"]] == ["gpt", "openai/starter"]
    assert some["provider_filter"] == "openai"


@pytest.mark.parametrize(
    ("path", "identity"),
    [
        ("starter", "starter"),
        ("llama_cpp/starter", "starter"),
        ("openai/starter", "openai/starter"),
        ("openai%2Fstarter", "openai/starter"),
    ],
)
async def test_model_when_named_then_found(
    path: str, identity: str, client: httpx.AsyncClient
) -> None:
    assert (await client.get(f"/v1/models/{path}")).json()["id"] == identity


async def test_model_when_unknown_then_404(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models/nope")
    error = answer.json()["error"]
    assert answer.status_code == 404
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "starter, gpt, openai/starter" in error["message"]


FAILURES: list[tuple[Exception, int, str, str]] = [
    (InvalidInput.at("seed", "odd"), 400, "invalid_request_error", "validation_error"),
    (UnknownModel("no"), 404, "invalid_request_error", "model_not_found"),
    (ContextLengthExceeded("no"), 400, "invalid_request_error", "context_length_exceeded"),
    (Forbidden("no"), 403, "permission_error", "forbidden"),
    (RateLimited("no", retry_after=3), 429, "rate_limit_error", "rate_limit_exceeded"),
    (QueueFull("no", retry_after=3), 503, "server_error", "queue_full"),
    (ModelUnavailable("no", retry_after=3), 503, "server_error", "model_unavailable"),
    (ProviderFailed("no"), 502, "server_error", "provider_error"),
    (DeadlineExceeded("no"), 504, "server_error", "deadline_exceeded"),
    (RuntimeError("secret"), 500, "server_error", "internal_error"),
]


@pytest.mark.parametrize("streamed", [False, True])
async def test_chat_when_it_fails_before_the_first_token_then_the_error_of_openai(
    streamed: bool, api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    for failure, status, kind, code in FAILURES:
        api.service.refusal = failure
        answer = await client.post(CHATS, json=CHAT | {"stream": streamed})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["code"]) == (status, kind, code)
        assert "secret" not in answer.text
        wait = failure.retry_after if isinstance(failure, ApplianceError) else None
        assert answer.headers.get("retry-after") == (str(wait) if wait else None)


async def test_error_when_there_are_details_then_they_are_in_the_body(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.refusal = InvalidInput.at("seed", "odd")
    error = (await client.post(CHATS, json=CHAT)).json()["error"]
    assert error["param"] == "seed"
    assert "details" not in error
    counts = {"prompt_tokens": 9, "max_tokens": 1, "context_tokens": 4}
    api.service.refusal = ContextLengthExceeded("too long", details=counts)
    error = (await client.post(CHATS, json=CHAT)).json()["error"]
    assert error["details"] == counts
    assert error["param"] == "messages"
    error = (await client.post("/v1/responses", json={"input": "x"})).json()["error"]
    assert error["details"] == counts
    assert error["param"] == "input"


@pytest.mark.parametrize(
    ("path", "field", "named"),
    [
        (CHATS, "output.schema.properties.a", "response_format.json_schema.schema.properties.a"),
        (CHATS, "tools[2].parameters.type", "tools[2].function.parameters.type"),
        (CHATS, "output.grammar", "grammar"),
        ("/v1/responses", "output.schema.properties.a", "text.format.schema.properties.a"),
        ("/v1/responses", "messages[0].content[0]", "input"),
        ("/v1/messages", "output.schema.properties.a", "output_config.format.schema.properties.a"),
        ("/v1/messages", "tools[2].parameters.type", "tools[2].input_schema.type"),
    ],
)
async def test_error_when_a_model_refuses_a_schema_then_it_names_the_client_s_field(
    path: str, field: str, named: str, api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.refusal = InvalidInput.at(field, "is odd")
    answer = await client.post(path, json=CHAT | {"input": "x", "model": "m", "max_tokens": 5})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"] == f"{named}: is odd"
    assert error.get("param", named) == named


@pytest.mark.parametrize("key", ["", "mk-wrong"])
async def test_chat_when_the_key_is_wrong_then_401_before_the_body_is_read(
    key: str, api: OpenAiApi
) -> None:
    async with api.client(key) as stranger:
        answer = await stranger.post(CHATS, content=b"{")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"


MALFORMED: list[tuple[bytes, str]] = [
    (b"", "body"),
    (b"{", "body"),
    (b"[]", "body"),
    (b"null", "body"),
    (b"\xff\xfe", "body"),
    (b'{"user": "a\\ud800"}', "user"),
    (b'{"messages": [{"content": "\\udc00abcdefgh"}]}', "messages[0].content"),
    (b"[" * 100_000, "body"),
    (b"{}", "messages"),
    (b'{"messages": 5}', "messages"),
    (b'{"messages": [{"role": "user", "content": 5}]}', "messages[0].content"),
    (b'{"messages": [{"content": "x"}]}', "messages[0].role"),
    (b'{"messages": [], "temperature": 2.1}', "temperature"),
    (b'{"messages": [], "n": 0}', "n"),
    (b'{"messages": [], "n": 129}', "n"),
    (b'{"messages": [], "max_tokens": 0}', "max_tokens"),
    (b'{"messages": [], "seed": 99999999999999999999999}', "seed"),
    (b'{"messages": [], "logit_bias": {"a": 1}}', "logit_bias"),
    (b'{"messages": [], "logit_bias": {"1": 101}}', "logit_bias[...]"),
    (b'{"messages": [], "logit_bias": {"-1": 1}}', "logit_bias"),
    (b'{"messages": [], "logit_bias": {"99999999999999999999999": 1}}', "logit_bias"),
    (b'{"messages": [], "top_logprobs": 21}', "top_logprobs"),
    (b'{"messages": [], "stop": [1]}', "stop[0]"),
    (b'{"messages": [], "tools": [{}]}', "tools[0].type"),
]


async def test_chat_when_the_body_is_malformed_then_400_with_the_field(
    client: httpx.AsyncClient,
) -> None:
    for content, param in MALFORMED:
        answer = await client.post(CHATS, content=content)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), content[:60]
        assert error["param"] == param, answer.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", CHATS, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/starter", 405, "method_not_allowed"),
        ("POST", "/v1/chat/nothing", 404, "unknown_url"),
        ("GET", "/v1/completions/x/y", 404, "unknown_url"),
        ("GET", "/v1/embeddings/x", 404, "unknown_url"),
        ("GET", "/v1/files", 404, "unknown_url"),
    ],
)
async def test_path_when_there_is_nothing_then_the_error_of_openai(
    method: str, path: str, status: int, code: str, client: httpx.AsyncClient
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "openai-version" in answer.headers


async def test_limits_when_spent_then_429_with_the_wait(tmp_path: Path) -> None:
    limits = LimitSettings(requests_per_minute=2, burst=2)
    async with (
        open_openai(tmp_path, settings_with(limits=limits)) as api,
        api.client() as client,
    ):
        answers = [await client.post(CHATS, json=CHAT) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [
        "1", "0", "0",
    ]  # fmt: skip
    assert int(answers[2].headers["retry-after"]) >= 1
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("streamed", [False, True])
async def test_chat_when_the_client_goes_away_then_every_completion_is_closed(
    n: int, streamed: bool, api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    api.service.steps = (TextDelta("a"), None)
    client.headers["x-api-key"] = api.key
    scripted = ScriptedApi(api.app, client, api.service)
    async with disconnecting_client(scripted, CHATS, CHAT | {"n": n, "stream": streamed}) as leave:
        await until(lambda: len(api.service.started) == n)
        for each in api.service.started:
            await each.stalled.wait()
        leave.set()
    await until(lambda: all(each.closed.is_set() for each in api.service.started))


async def test_chat_when_served_from_the_cache_then_the_header_says_so(
    api: OpenAiApi, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hit = CompletionReport("llama_cpp", "starter", cache=CacheStatus.HIT)
    monkeypatch.setattr("tests.api.scripted_completions.REPORT", hit)
    answer = await client.post(CHATS, json=CHAT | {"seed": 1})
    assert answer.headers["x-cache-status"] == "HIT"


async def test_chat_when_a_tool_is_asked_for_then_the_call(
    api: OpenAiApi, client: httpx.AsyncClient
) -> None:
    call = ToolCall("call_1", "f", "{}")
    api.service.steps = (call, Finished(FinishReason.TOOL_CALLS, TokenUsage(1, 1)))
    tools = [{"type": "function", "function": {"name": "f"}}]
    (choice,) = (await client.post(CHATS, json=CHAT | {"tools": tools})).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["id"] == "call_1"
