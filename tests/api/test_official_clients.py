"""The official packages against the real server over scripted completions.

What a model says can't be chosen; what the packages make of each thing that it may say can
be shown only so. The end-to-end tests show the same packages with a real model.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest
import pytest_asyncio
from anthropic.types import Message
from openai.types.responses import Response
from pydantic import BaseModel

from appliance.config.settings import ServerSettings
from appliance.domain.messages import (
    Finished,
    FinishReason,
    OutputKind,
    TextDelta,
    ToolCall,
    ToolUse,
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
from appliance.server import HttpServer
from tests.api.application import settings_with
from tests.api.scripted_completions import HELLO, USAGE, ScriptedApi, open_scripted
from tests.support.polling import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASK: Any = {"model": "starter", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}
INPUT: Any = {"model": "starter", "input": "hi"}
SCHEMA: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CALLS = [
    TextDelta("let me see"),
    ToolCall("call_1", "weather", '{"city": "Oslo"}'),
    ToolCall("call_2", "weather", '{"city": "Rome"}'),
    Finished(FinishReason.TOOL_CALLS, USAGE),
]
JSON = [TextDelta('{"name":'), TextDelta(' "Oslo"}'), Finished(FinishReason.STOP, USAGE)]


class City(BaseModel):
    name: str


class Served(ScriptedApi):
    """The scripted application at a real address, and both clients of it."""

    url: str
    anthropic: anthropic.AsyncAnthropic
    openai: openai.AsyncOpenAI


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    async with open_scripted(tmp_path_factory.mktemp("server"), settings_with()) as api:
        served = Served(api.app, api.client, api.service)
        server = HttpServer(api.app, ServerSettings(port=0))
        await server.start()
        served.url, key = server.url, api.client.headers["x-api-key"]
        served.anthropic = anthropic.AsyncAnthropic(base_url=server.url, api_key=key, max_retries=0)
        served.openai = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)
        yield served
        await served.anthropic.close()
        await served.openai.close()
        await server.stop(10)


@pytest.fixture
def served(running: Served) -> Served:
    running.service.reset()
    return running


async def message_of(served: Served, **fields: Any) -> Message:
    """Not streamed: with fields of any type, the package's own overloads can't tell."""
    return cast("Message", await served.anthropic.messages.create(**ASK | fields))


async def response_of(served: Served, **fields: Any) -> Response:
    return cast("Response", await served.openai.responses.create(**INPUT | fields))


async def test_anthropic_when_tools_are_called_then_their_input(served: Served) -> None:
    served.service.steps = CALLS
    message = await message_of(
        served,
        tools=[{"name": "weather", "input_schema": SCHEMA}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
    )
    assert served.spec.tool_choice.use is ToolUse.REQUIRED
    assert not served.spec.tool_choice.parallel
    assert message.stop_reason == "tool_use"
    text, *uses = message.content
    assert text.type == "text"
    assert [use.input for use in uses if use.type == "tool_use"] == [
        {"city": "Oslo"},
        {"city": "Rome"},
    ]


async def test_anthropic_when_an_answer_is_passed_back_then_it_is_understood(
    served: Served,
) -> None:
    served.service.steps = CALLS
    message = await message_of(served)
    turns: list[Any] = [*ASK["messages"], message.to_param()]
    results: Any = [
        {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
        for use in message.content
        if use.type == "tool_use"
    ]
    turns.append({"role": "user", "content": results})
    await message_of(served, messages=turns)
    assert [each.role.value for each in served.spec.messages] == [
        "user", "assistant", "tool", "tool",
    ]  # fmt: skip


async def test_anthropic_when_the_package_runs_the_tools_then_whole_conversations(
    served: Served,
) -> None:
    @anthropic.beta_async_tool
    async def weather(city: str) -> str:
        """The weather of a city."""
        served.service.steps = HELLO
        return f"rain in {city}"

    served.service.steps = [CALLS[1], CALLS[-1]]
    messages = cast("Any", served.anthropic.beta.messages)
    runner = messages.tool_runner(**ASK, tools=[weather])
    message = await runner.until_done()
    assert message.stop_reason == "end_turn"
    assert [each.role.value for each in served.spec.messages] == ["user", "assistant", "tool"]
    assert served.spec.messages[-1].content == "rain in Oslo"


async def test_anthropic_when_streaming_tools_then_the_helpers_see_them(served: Served) -> None:
    served.service.steps = CALLS
    async with served.anthropic.messages.stream(**ASK) as stream:
        kinds = [event.type async for event in stream]
        message = await stream.get_final_message()
    assert kinds.count("input_json") == 2
    assert [block.type for block in message.content] == ["text", "tool_use", "tool_use"]
    assert message.usage.output_tokens == 5
    assert message.usage.cache_read_input_tokens == 12


async def test_anthropic_when_a_type_is_asked_for_then_parsed(served: Served) -> None:
    served.service.steps = JSON
    message = await served.anthropic.messages.parse(**ASK, output_format=City)
    assert message.parsed_output == City(name="Oslo")
    assert served.spec.output.kind is OutputKind.SCHEMA
    async with served.anthropic.messages.stream(**ASK, output_format=City) as stream:
        assert (await stream.get_final_message()).parsed_output == City(name="Oslo")


ANTHROPIC_ERRORS: list[tuple[ApplianceError, type[anthropic.APIStatusError]]] = [
    (UnknownModel("x"), anthropic.NotFoundError),
    (ContextLengthExceeded("x", details={"prompt_tokens": 9}), anthropic.BadRequestError),
    (Forbidden("x"), anthropic.PermissionDeniedError),
    (RateLimited("x", retry_after=1), anthropic.RateLimitError),
    (QueueFull("x"), anthropic.InternalServerError),
    (ModelUnavailable("x"), anthropic.InternalServerError),
    (ProviderFailed("x"), anthropic.InternalServerError),
    (DeadlineExceeded("x"), anthropic.InternalServerError),
]


@pytest.mark.parametrize(("raised", "kind"), ANTHROPIC_ERRORS)
async def test_anthropic_when_refused_then_the_packages_own_error(
    raised: ApplianceError, kind: type[anthropic.APIStatusError], served: Served
) -> None:
    served.service.refusal = raised
    with pytest.raises(kind) as refused:
        await message_of(served)
    assert refused.value.request_id
    message = "prompt is too long: x" if isinstance(raised, ContextLengthExceeded) else "x"
    assert cast("Any", refused.value.body)["error"]["message"] == message


async def test_anthropic_when_the_queue_is_full_then_the_package_tries_again(
    served: Served,
) -> None:
    served.service.refusal = QueueFull("x", retry_after=0.001)

    async def finish_first() -> None:
        await until(lambda: served.service.specs)
        served.service.refusal = None

    room = asyncio.create_task(finish_first())
    patient = served.anthropic.with_options(max_retries=1)
    await patient.messages.create(**ASK)
    await room
    assert len(served.service.specs) == 2


async def test_anthropic_when_a_stream_fails_then_the_package_raises(served: Served) -> None:
    served.service.steps = [TextDelta("a"), ProviderFailed("the engine died")]
    with pytest.raises(anthropic.APIStatusError, match="the engine died"):
        async with served.anthropic.messages.stream(**ASK) as stream:
            await stream.until_done()


async def test_responses_when_tools_are_called_then_their_arguments(served: Served) -> None:
    served.service.steps = CALLS
    tool: Any = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    answer = await response_of(served, tools=[tool], tool_choice="required")
    assert served.spec.tool_choice.use is ToolUse.REQUIRED
    calls = [item for item in answer.output if item.type == "function_call"]
    assert [call.arguments for call in calls] == ['{"city": "Oslo"}', '{"city": "Rome"}']
    again: list[Any] = [{"role": "user", "content": "hi"}, *answer.output]
    again += [
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        for call in calls
    ]
    await response_of(served, input=again)
    assert [each.role.value for each in served.spec.messages] == [
        "user", "assistant", "tool", "tool",
    ]  # fmt: skip


async def test_responses_when_streaming_tools_then_the_helpers_see_them(served: Served) -> None:
    served.service.steps = CALLS
    async with served.openai.responses.stream(**INPUT) as stream:
        kinds = [event.type async for event in stream]
        answer = await stream.get_final_response()
    assert kinds.count("response.function_call_arguments.done") == 2
    assert answer.output_text == "let me see"
    assert [item.type for item in answer.output] == ["message", *["function_call"] * 2]
    assert answer.usage is not None
    assert answer.usage.input_tokens_details.cached_tokens == 12


async def test_responses_when_a_type_is_asked_for_then_parsed(served: Served) -> None:
    served.service.steps = JSON
    answer = await served.openai.responses.parse(**INPUT, text_format=City)
    assert answer.output_parsed == City(name="Oslo")
    assert served.spec.output.kind is OutputKind.SCHEMA
    async with served.openai.responses.stream(**INPUT, text_format=City) as stream:
        assert (await stream.get_final_response()).output_parsed == City(name="Oslo")


OPENAI_ERRORS: list[tuple[ApplianceError, type[openai.APIStatusError], str]] = [
    (UnknownModel("x"), openai.NotFoundError, "model_not_found"),
    (ContextLengthExceeded("x"), openai.BadRequestError, "context_length_exceeded"),
    (RateLimited("x"), openai.RateLimitError, "rate_limit_exceeded"),
    (QueueFull("x"), openai.InternalServerError, "queue_full"),
]


@pytest.mark.parametrize(("raised", "kind", "code"), OPENAI_ERRORS)
async def test_responses_when_refused_then_the_packages_own_error(
    raised: ApplianceError, kind: type[openai.APIStatusError], code: str, served: Served
) -> None:
    served.service.refusal = raised
    with pytest.raises(kind) as refused:
        await response_of(served)
    assert refused.value.code == code
    assert refused.value.request_id


async def test_responses_when_a_stream_fails_then_a_failed_response(served: Served) -> None:
    served.service.steps = [TextDelta("a"), ProviderFailed("the engine died")]
    async with served.openai.responses.stream(**INPUT) as stream:
        last = [event async for event in stream][-1]
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == "the engine died"


async def test_counts_when_asked_for_then_the_tokens(served: Served) -> None:
    messages = await served.anthropic.messages.count_tokens(
        model="starter", messages=ASK["messages"]
    )
    assert messages.input_tokens == 42
    assert (await served.openai.responses.input_tokens.count(**INPUT)).input_tokens == 42


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "body"), [("/v1/messages", ASK), ("/v1/responses", INPUT)])
async def test_connection_when_cut_then_the_completion_is_closed(
    path: str, body: dict[str, Any], stream: bool, served: Served
) -> None:
    served.service.steps = [TextDelta("a"), None]
    headers = {"x-api-key": served.client.headers["x-api-key"]}
    async with asyncio.timeout(20), httpx.AsyncClient(headers=headers) as client:
        asked = asyncio.create_task(
            client.post(f"{served.url}{path}", json=body | {"stream": stream})
        )
        await served.service.waiting.wait()
        await until(lambda: served.service.started)
        await served.service.started[0].stalled.wait()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await served.service.started[0].closed.wait()
