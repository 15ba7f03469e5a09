"""The Responses API of the official `openai` package against a real server with a real model."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal, cast

import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.support.server_process import ServerProcess

HI = "Say hello."
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city",
    "parameters": CITY,
    "strict": True,
}
ONE_CALL: Any = {"tools": [WEATHER], "parallel_tool_calls": False, "max_output_tokens": 80}


class Fruit(BaseModel):
    """Few answers fit, so that the smallest model ends in time."""

    sweet: bool
    color: Literal["red", "green"]


@pytest.fixture(scope="module")
def sdk(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


def respond(sdk: openai.OpenAI, turns: Any = HI, **fields: Any) -> Response:
    defaults = {"model": "model", "input": turns, "max_output_tokens": 12, "temperature": 0}
    return cast("Response", sdk.responses.create(**cast("Any", defaults | fields)))


def test_response_when_asked_for_then_text_and_exact_usage(sdk: openai.OpenAI) -> None:
    answer = respond(sdk, instructions="Be brief.", metadata={"a": "b"})
    assert answer.output_text
    assert (answer.object, answer.model) == ("response", "model")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens <= 12
    counted = sdk.responses.input_tokens.count(model="model", input=HI, instructions="Be brief.")
    assert answer.usage.input_tokens == counted.input_tokens
    assert answer.usage.total_tokens == counted.input_tokens + answer.usage.output_tokens


def test_response_when_the_room_of_the_answer_is_used_up_then_incomplete(
    sdk: openai.OpenAI,
) -> None:
    answer = respond(sdk, "Tell a long story about the sea.", max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_response_when_the_conversation_goes_on_then_earlier_items_are_read(
    sdk: openai.OpenAI,
) -> None:
    first = respond(sdk)
    turns: list[Any] = [{"role": "user", "content": HI}, *first.output]
    second = respond(sdk, [*turns, {"role": "user", "content": "And goodbye?"}])
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0


def test_stream_when_read_by_the_helper_then_events_in_their_order(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(
        model="model",
        input="An apple, as JSON with sweet and color.",
        text_format=Fruit,
        max_output_tokens=200,
        temperature=0,
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == final.output_text
    assert isinstance(final.output_parsed, Fruit)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "weather"}])
def test_tool_when_it_must_be_called_then_its_arguments_fit(
    choice: Any, sdk: openai.OpenAI
) -> None:
    question = "What is the weather in Oslo?"
    answer = respond(sdk, question, tool_choice=choice, **ONE_CALL)
    (call,) = (item for item in answer.output if item.type == "function_call")
    assert list(json.loads(call.arguments)) == ["city"]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    turns: list[Any] = [{"role": "user", "content": question}, *answer.output, output]
    final = respond(sdk, turns, tools=[WEATHER], tool_choice="none")
    assert final.output_text


def test_tool_when_streamed_then_the_helper_sees_its_arguments(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(
        model="model",
        input="What is the weather in Oslo?",
        tool_choice="required",
        temperature=0,
        **ONE_CALL,
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()
    (done,) = (e for e in events if e.type == "response.function_call_arguments.done")
    (call,) = (item for item in final.output if item.type == "function_call")
    assert done.arguments == call.arguments
    assert list(json.loads(call.arguments)) == ["city"]


def test_output_when_a_type_is_asked_for_then_it_is_parsed(sdk: openai.OpenAI) -> None:
    answer = sdk.responses.parse(
        model="model",
        input="An apple, as JSON with sweet and color.",
        text_format=Fruit,
        temperature=0,
        max_output_tokens=200,
    )
    assert isinstance(answer.output_parsed, Fruit)


def test_output_when_any_json_is_asked_for_then_an_object(sdk: openai.OpenAI) -> None:
    answer = respond(
        sdk,
        'Repeat exactly: {"a": 1}',
        text={"format": {"type": "json_object"}},
        max_output_tokens=200,
    )
    assert answer.output_text.lstrip().startswith("{")
    if answer.status == "completed":  # a small model may not find the end in time
        assert isinstance(json.loads(answer.output_text), dict)


def test_logprobs_when_asked_for_then_of_every_token(sdk: openai.OpenAI) -> None:
    answer = respond(
        sdk, include=["message.output_text.logprobs"], top_logprobs=2, max_output_tokens=4
    )
    (message,) = (item for item in answer.output if item.type == "message")
    (part,) = (part for part in message.content if part.type == "output_text")
    assert part.logprobs is not None
    assert "".join(each.token for each in part.logprobs).startswith(part.text)
    assert all(each.logprob <= 0 and len(each.top_logprobs) == 2 for each in part.logprobs)


def test_errors_when_the_request_is_wrong_then_the_packages_own(
    sdk: openai.OpenAI, server: ServerProcess
) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        respond(sdk, model="nobody")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as too_long:
        respond(sdk, "word " * 20_000)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as stored:
        respond(sdk, store=True)
    assert stored.value.param == "store"
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="mk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        respond(stranger)


async def test_async_client_when_several_ask_at_once_then_all_are_answered(
    server: ServerProcess,
) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=server.key, max_retries=0
    ) as client:

        async def one(number: int) -> Response:
            return await client.responses.create(
                model="model", input=f"Say the number {number}.", max_output_tokens=6
            )

        answers = await asyncio.gather(*(one(number) for number in range(4)))
        assert all(answer.usage and answer.usage.output_tokens > 0 for answer in answers)
        async with client.responses.stream(
            model="model", input="Tell a very long story.", max_output_tokens=2000
        ) as stream:
            async for event in stream:
                if event.type == "response.output_text.delta":
                    break
        after = await client.responses.create(model="model", input=HI, max_output_tokens=3)
    assert after.usage is not None
