"""What clients are told of an upstream's failures: in words and statuses that they act on."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from appliance.config.settings import GatewaySettings
from tests.api.upstream_application import (
    MESSAGES,
    VLLM_CHAT,
    UpstreamApi,
    open_upstream_api,
    openai_answer,
)
from tests.support.fake_upstream import FakeResponse, as_events, as_json
from tests.support.gateway_parts import route

HI: list[Any] = [{"role": "user", "content": "hi"}]
CHAT_PATH, MESSAGES_PATH = "/v1/chat/completions", "/v1/messages"
OWN = "llama_cpp/own"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[UpstreamApi, None]:
    few = GatewaySettings(breaker_failures=3, backoff_s=0.001, tries=1)
    async with open_upstream_api(tmp_path, gateway=few, routes=route("vllm/m", OWN)) as api:
        yield api


def refusal(message: str, status: int = 400, **more: Any) -> FakeResponse:
    return as_json({"error": {"message": message, "type": "invalid_request_error"} | more}, status)


def sdk_options(api: UpstreamApi) -> Any:
    """For the official packages."""
    transport = httpx2.ASGITransport(api.app, raise_app_exceptions=False)
    return {
        "api_key": api.client.headers["x-api-key"],
        "http_client": httpx2.AsyncClient(transport=transport),
    }


OVERFLOWS = {
    "openai": "This model's maximum context length is 8192 tokens. However, your messages "
    "resulted in 10000 tokens. Please reduce the length of the messages.",
    "openai with an answer": "This model's maximum context length is 8192 tokens. However, you "
    "requested 12000 tokens (10000 in the messages, 2000 in the completion).",
    "anthropic": "prompt is too long: 10000 tokens > 8192 maximum",
    "gemini": "The input token count (10000) exceeds the maximum number of tokens allowed (8192).",
    "vllm": "'max_tokens' is too large: 20. This model's maximum context length is 8192 tokens "
    "and your request has 10000 input tokens (20 > 8192 - 10000).",
    "vllm's decoder": "The decoder prompt (length 10000) is longer than the maximum model length "
    "of 8192.",
    "llama-server": "request (10000 tokens) exceeds the available context size (8192 tokens)",
    "mistral": "Prompt contains 10,000 tokens, too large for model with 8,192 maximum context "
    "length",
    "xai": "This model's maximum prompt length is 8192 but the request contains 10000 tokens.",
}


@pytest.mark.parametrize("wording", OVERFLOWS)
@pytest.mark.parametrize("stream", [False, True])
async def test_overflow_when_an_upstream_says_it_in_its_words_then_clients_get_theirs(
    api: UpstreamApi, wording: str, stream: bool
) -> None:
    """F42"""
    api.upstream.on(VLLM_CHAT, refusal(OVERFLOWS[wording]))
    body = {"model": "vllm/m", "messages": HI, "max_tokens": 2000, "stream": stream}
    told = await api.post(CHAT_PATH, body)
    assert told.status_code == 400
    error = told.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert error["message"].startswith(
        "This model's maximum context length is 8192 tokens. However, your messages resulted in "
        "10000 tokens."
    )
    told = await api.post(MESSAGES_PATH, body)
    assert told.status_code == 400
    assert told.json()["error"]["type"] == "invalid_request_error"
    assert told.json()["error"]["message"] == "prompt is too long: 10000 tokens > 8192 maximum"


@pytest.mark.parametrize(
    "message", ["Input is too long for requested model.", "Your input exceeds the context window."]
)
async def test_overflow_when_an_upstream_gives_no_counts_then_clients_still_recognize_it(
    api: UpstreamApi, message: str
) -> None:
    """F42"""
    api.upstream.on(VLLM_CHAT, refusal(message))
    body = {"model": "vllm/m", "messages": HI, "max_tokens": 20}
    error = (await api.post(CHAT_PATH, body)).json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "maximum context length" in error["message"]
    assert "prompt is too long" in (await api.post(MESSAGES_PATH, body)).json()["error"]["message"]


async def test_overflow_when_it_comes_within_a_stream_then_clients_get_their_words(
    api: UpstreamApi,
) -> None:
    """F42"""
    begun = {"choices": [{"index": 0, "delta": {"content": "a"}}]}
    error = {"message": OVERFLOWS["anthropic"], "type": "invalid_request_error"}
    api.upstream.on(VLLM_CHAT, as_events(begun, {"error": error}))
    options = {"model": "vllm/m", "stream": True}
    chat = await api.post(CHAT_PATH, options | {"messages": HI})
    assert "maximum context length is 8192 tokens" in chat.text
    message = await api.post(MESSAGES_PATH, options | {"messages": HI, "max_tokens": 9})
    assert "prompt is too long: 10000 tokens > 8192 maximum" in message.text
    response = await api.post("/v1/responses", options | {"input": "hi"})
    assert '"code":"context_length_exceeded"' in response.text
    assert "maximum context length is 8192 tokens" in response.text


@pytest.mark.parametrize("wording", OVERFLOWS)
async def test_overflow_when_a_route_goes_on_then_the_next_target_answers(
    api: UpstreamApi, wording: str
) -> None:
    """F42"""
    api.upstream.on(VLLM_CHAT, refusal(OVERFLOWS[wording]))
    done = await api.post(CHAT_PATH, {"model": "smart", "messages": HI})
    assert (done.status_code, done.json()["model"]) == (200, "own")


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        ("'max_tokens' is too large: 32000. This model's maximum context length is 8192 tokens and "
         "your request has 192 input tokens (32000 > 8192 - 192).", 8000),
        ("This model's maximum context length is 8192 tokens. However, you requested 32192 tokens "
         "(192 in the messages, 32000 in the completion).", 8000),
        ("`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 48 `inputs` tokens and 32000 "
         "`max_new_tokens`", 2000),
    ],
)  # fmt: skip
async def test_max_tokens_when_an_upstream_takes_no_cap_then_the_longest_that_fits_is_asked_for(
    api: UpstreamApi, message: str, sent: int
) -> None:
    """F10"""
    api.upstream.on(VLLM_CHAT, refusal(message), openai_answer())
    done = await api.post(CHAT_PATH, {"model": "vllm/m", "messages": HI, "max_tokens": 32_000})
    assert done.status_code == 200, done.text
    assert [body["max_tokens"] for body in api.upstream.bodies(VLLM_CHAT)] == [32_000, sent]


async def test_max_tokens_when_anthropic_takes_no_cap_then_the_longest_that_fits_is_asked_for(
    api: UpstreamApi,
) -> None:
    """F10"""
    message = (
        "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease "
        "input length or `max_tokens` and try again"
    )
    api.upstream.on(MESSAGES, refusal(message))
    body = {"model": "anthropic/m", "messages": HI, "max_tokens": 32_000}
    told = (await api.post(MESSAGES_PATH, body)).json()["error"]["message"]
    assert [body["max_tokens"] for body in api.upstream.bodies(MESSAGES)] == [32_000, 10_000]
    assert told == message


async def test_breaker_when_one_users_requests_are_refused_then_others_are_served(
    api: UpstreamApi,
) -> None:
    """F47: a path that the upstream lacks, a wrong request, a conflict."""
    for status in (400, 404, 409, 422):
        api.upstream.on("/v1/completions", refusal("no", status))
        for _ in range(4):
            await api.post("/v1/completions", {"model": "vllm/m", "prompt": "a"})
    done = await api.post(CHAT_PATH, {"model": "vllm/m", "messages": HI})
    assert done.status_code == 200, done.text


async def test_breaker_when_the_upstream_itself_fails_then_it_is_paused(api: UpstreamApi) -> None:
    """F47"""
    api.upstream.on(VLLM_CHAT, refusal("broken", 500))
    for _ in range(3):
        await api.post(CHAT_PATH, {"model": "vllm/m", "messages": HI})
    told = await api.post(CHAT_PATH, {"model": "vllm/m", "messages": HI})
    assert told.json()["error"]["code"] == "model_unavailable"
    assert len(api.upstream.bodies(VLLM_CHAT)) == 3


PERMANENT = {
    "a wrong key": refusal("Incorrect API key", 401),
    "no permission": refusal("no access", 403),
    "no credit": refusal("pay", 402),
    "an unknown model": refusal("The model `m` does not exist", 404, code="model_not_found"),
    "an unknown path": refusal("Not Found", 404),
}


@pytest.mark.parametrize("kind", PERMANENT)
async def test_failure_when_it_lasts_then_no_client_retries_it(api: UpstreamApi, kind: str) -> None:
    """F48"""
    for path in (VLLM_CHAT, MESSAGES):
        api.upstream.on(path, PERMANENT[kind])
    chat = openai.AsyncOpenAI(base_url="http://server.test/v1", **sdk_options(api))
    with pytest.raises(openai.APIStatusError) as refused:
        await chat.chat.completions.create(model="vllm/m", messages=HI)
    _assert_permanent(refused.value.response, 404 if "model" in kind else 424)
    claude = anthropic.AsyncAnthropic(base_url="http://server.test", **sdk_options(api))
    with pytest.raises(anthropic.APIStatusError) as declined:
        await claude.messages.create(model="anthropic/m", messages=HI, max_tokens=9)
    _assert_permanent(declined.value.response, 404 if "model" in kind else 424)
    await chat.close()
    await claude.close()
    assert len(api.upstream.requests) == 2


def _assert_permanent(response: Any, status: int) -> None:
    assert (response.status_code, response.headers["x-should-retry"]) == (status, "false")
    assert response.json()["error"]["message"]


async def test_failure_when_it_passes_then_it_may_be_retried(api: UpstreamApi) -> None:
    """F48"""
    api.upstream.on(VLLM_CHAT, as_events(end="reset"))
    told = await api.post(CHAT_PATH, {"model": "vllm/m", "messages": HI})
    assert told.status_code == 502
    assert "x-should-retry" not in told.headers
