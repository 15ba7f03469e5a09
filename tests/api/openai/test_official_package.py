"""The official package over a real socket: answers, errors and streams."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from appliance.config.settings import ServerSettings
from appliance.domain.messages import Finished, FinishReason, TextDelta, TokenUsage, ToolCall
from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    Forbidden,
    ModelUnavailable,
    ProviderFailed,
    RateLimited,
    UnknownModel,
)
from appliance.server import HttpServer
from tests.api.application import settings_with
from tests.api.openai_application import OpenAiApi, open_openai
from tests.support.polling import until

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[OpenAiApi]:
    async with open_openai(tmp_path, settings_with()) as opened:
        yield opened


@pytest.fixture
async def client(api: OpenAiApi) -> AsyncIterator[openai.AsyncOpenAI]:
    server = HttpServer(api.app, ServerSettings(port=0))
    await server.start()
    try:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key=api.key, max_retries=0, timeout=30
        ) as opened:
            yield opened
    finally:
        await server.stop(5)


async def test_package_when_the_request_is_rejected_then_its_exceptions(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    expected: list[tuple[ApplianceError, type[openai.APIStatusError], str]] = [
        (UnknownModel("no"), openai.NotFoundError, "model_not_found"),
        (
            ContextLengthExceeded("maximum context length"),
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (Forbidden("no"), openai.PermissionDeniedError, "forbidden"),
        (RateLimited("no", retry_after=1), openai.RateLimitError, "rate_limit_exceeded"),
        (ModelUnavailable("no", retry_after=1), openai.InternalServerError, "model_unavailable"),
    ]
    for failure, kind, code in expected:
        api.service.refusal = failure
        with pytest.raises(kind) as raised:
            await client.chat.completions.create(model="starter", messages=HI)
        assert raised.value.code == code
        assert raised.value.request_id
        assert raised.value.response.json()["error"]["message"] == failure.message


async def test_package_when_the_key_is_wrong_then_authentication_error(
    client: openai.AsyncOpenAI,
) -> None:
    stranger = client.with_options(api_key="mk-wrong")
    with pytest.raises(openai.AuthenticationError) as raised:
        await stranger.models.list()
    assert raised.value.code == "invalid_api_key"


async def test_package_when_retry_after_is_sent_then_it_retries(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.refusal = ModelUnavailable("loading", retry_after=1)
    asyncio.get_running_loop().call_later(0.3, setattr, api.service, "refusal", None)
    patient = client.with_options(max_retries=3)
    answer = await patient.chat.completions.create(model="starter", messages=HI)
    assert answer.choices[0].message.content == "Hello"
    assert len(api.service.specs) == 2


async def test_package_when_a_stream_fails_then_api_error_after_what_came(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.steps = (TextDelta("half"), ProviderFailed("the engine died"))
    stream = await client.chat.completions.create(model="starter", messages=HI, stream=True)
    came: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            came.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="the engine died") as raised:
        await read()
    assert came == ["", "half"]
    assert raised.value.code == "provider_error"


async def test_package_when_a_stream_is_closed_then_the_completion_ends(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.steps = (TextDelta("a"), None)
    stream = await client.chat.completions.create(model="starter", messages=HI, n=2, stream=True)
    async for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    await stream.close()
    await until(lambda: all(each.closed.is_set() for each in api.service.started))


@pytest.mark.parametrize("started", [False, True])
async def test_package_when_a_call_is_cancelled_then_the_completion_ends(
    started: bool, api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.steps = (TextDelta("a"), None)
    if not started:
        api.service.may_start.clear()
    asked = asyncio.create_task(client.chat.completions.create(model="starter", messages=HI))
    await until(api.service.waiting.is_set)
    if started:
        await until(lambda: bool(api.service.started))
    asked.cancel()
    if started:
        await until(api.service.started[0].closed.is_set)
    else:
        await until(api.service.cancelled.is_set)


async def test_package_when_a_stream_is_helped_then_parsed_tools_and_content(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.steps = (
        TextDelta('{"name": "Be'),
        TextDelta('rn", "people": 130000}'),
        Finished(FinishReason.STOP, TokenUsage(3, 4)),
    )
    async with client.chat.completions.stream(
        model="starter",
        messages=HI,
        response_format=City,
        stream_options={"include_usage": True},
    ) as stream:
        final = await stream.get_final_completion()
    assert final.choices[0].message.parsed == City(name="Bern", people=130000)
    assert final.usage is not None
    assert final.usage.total_tokens == 7
    output = api.service.specs[0].output
    assert (output.name, output.strict) == ("City", True)


async def test_package_when_tools_are_asked_for_in_a_stream_then_both_calls(
    api: OpenAiApi, client: openai.AsyncOpenAI
) -> None:
    api.service.steps = (
        ToolCall("call_1", "f", '{"x": 1}'),
        ToolCall("call_2", "f", '{"x": 2}'),
        Finished(FinishReason.TOOL_CALLS, TokenUsage(3, 4)),
    )
    async with client.chat.completions.stream(model="starter", messages=HI, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    calls = final.choices[0].message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [{"x": 1}, {"x": 2}]
    assert [call.id for call in calls] == ["call_1", "call_2"]
    assert final.choices[0].finish_reason == "tool_calls"


async def test_package_when_embeddings_are_requested_then_base64_is_decoded(
    client: openai.AsyncOpenAI,
) -> None:
    answer = await client.embeddings.create(model="starter", input=["a", "b"])
    assert len(answer.data) == 2
    assert answer.data[1].embedding == pytest.approx([0.6, -0.8])


async def test_package_when_models_are_asked_for_then_listed_and_found(
    client: openai.AsyncOpenAI,
) -> None:
    listed = [model.id async for model in client.models.list()]
    assert listed == ["starter", "gpt", "openai/starter"]
    for identity in listed:
        assert (await client.models.retrieve(identity)).id == identity
