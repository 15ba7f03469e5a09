"""The official `anthropic` package against a real server with a real model."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Literal, cast

import anthropic
import pytest
from anthropic.types import Message
from pydantic import BaseModel

from tests.support.server_process import ServerProcess

HI: list[Any] = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0}
CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"name": "weather", "description": "The weather of a city", "input_schema": CITY}


class Fruit(BaseModel):
    """Few answers fit, so that the smallest model ends in time."""

    sweet: bool
    color: Literal["red", "green"]


@pytest.fixture(scope="module")
def sdk(server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as client:
        yield client


def say(sdk: anthropic.Anthropic, text: str = "Say hello.", **fields: Any) -> Message:
    options = {"model": "model", "max_tokens": 12, "messages": [{"role": "user", "content": text}]}
    options |= {"extra_body": GREEDY} | fields
    return cast("Message", sdk.messages.create(**cast("Any", options)))


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_message_when_asked_for_then_text_and_exact_usage(sdk: anthropic.Anthropic) -> None:
    message = say(sdk)
    assert text_of(message)
    assert (message.role, message.type, message.model) == ("assistant", "message", "model")
    assert 0 < message.usage.output_tokens <= 12
    counted = sdk.messages.count_tokens(model="model", messages=HI).input_tokens
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == counted


def test_message_when_the_room_of_the_answer_is_used_up_then_max_tokens(
    sdk: anthropic.Anthropic,
) -> None:
    message = say(sdk, "Tell a long story about the sea.", max_tokens=3)
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 3


def test_message_when_a_stop_sequence_comes_then_it_ends_before_it(
    sdk: anthropic.Anthropic,
) -> None:
    whole = text_of(say(sdk, "Count from one to twenty, in words."))
    stop = whole[3:6]
    message = say(sdk, "Count from one to twenty, in words.", stop_sequences=[stop])
    assert text_of(message) == whole[: whole.index(stop)]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)


def test_message_when_the_prompt_was_seen_before_then_read_from_the_cache(
    sdk: anthropic.Anthropic,
) -> None:
    long: Any = [
        {"type": "text", "text": "Rules. " * 40, "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "Be brief."},
    ]
    first = say(sdk, "One?", system=long)
    second = say(sdk, "Two?", system=long)
    assert (second.usage.cache_read_input_tokens or 0) > 40
    assert first.usage.output_tokens > 0


def test_stream_when_read_by_the_helper_then_its_text_and_usage(
    sdk: anthropic.Anthropic,
) -> None:
    with sdk.messages.stream(
        model="model", max_tokens=12, messages=HI, extra_body=GREEDY
    ) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    assert "".join(pieces) == text_of(message) != ""
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert 0 < message.usage.output_tokens <= 12


def test_stream_when_read_raw_then_events_in_their_order(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.create(model="model", max_tokens=4, messages=HI, stream=True) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    first: Any = events[0]
    prompt = first.message.usage.input_tokens + first.message.usage.cache_read_input_tokens
    assert prompt == sdk.messages.count_tokens(model="model", messages=HI).input_tokens
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_tool_when_it_must_be_called_then_its_input_fits(
    choice: dict[str, Any], sdk: anthropic.Anthropic
) -> None:
    message = say(
        sdk,
        "What is the weather in Oslo?",
        max_tokens=80,
        tools=[WEATHER],
        tool_choice=choice | {"disable_parallel_tool_use": True},
    )
    (use,) = (block for block in message.content if block.type == "tool_use")
    assert message.stop_reason == "tool_use"
    assert use.name == "weather"
    assert list(use.input) == ["city"]


def test_tool_when_streamed_then_its_input_as_json(sdk: anthropic.Anthropic) -> None:
    with sdk.messages.stream(
        model="model",
        max_tokens=80,
        messages=[{"role": "user", "content": "What is the weather in Oslo?"}],
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        extra_body=GREEDY,
    ) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        message = stream.get_final_message()
    (use,) = (block for block in message.content if block.type == "tool_use")
    assert json.loads("".join(parts)) == use.input


def test_tool_when_its_result_is_given_back_then_the_model_goes_on(
    sdk: anthropic.Anthropic,
) -> None:
    turns: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    first = say(
        sdk,
        max_tokens=80,
        messages=turns,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    )
    (use,) = (block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "Rain, 8 degrees."}
    turns += [first.to_param(), {"role": "user", "content": [result]}]
    answer = say(sdk, messages=turns, tools=[WEATHER], tool_choice={"type": "none"})
    assert text_of(answer)
    assert [block.type for block in answer.content] == ["text"]


def test_output_when_a_type_is_asked_for_then_it_is_parsed(sdk: anthropic.Anthropic) -> None:
    message = sdk.messages.parse(
        model="model",
        max_tokens=200,
        messages=[{"role": "user", "content": "An apple, as JSON with sweet and color."}],
        output_format=Fruit,
        extra_body=GREEDY,
    )
    assert isinstance(message.parsed_output, Fruit)


def test_errors_when_the_request_is_wrong_then_the_packages_own(
    sdk: anthropic.Anthropic, server: ServerProcess
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="nobody"):
        say(sdk, model="nobody")
    with pytest.raises(anthropic.BadRequestError, match="tokens"):
        say(sdk, "word " * 20_000)
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
        say(sdk, messages=[{"role": "user", "content": [{"type": "image", "source": {}}]}])
    with (
        anthropic.Anthropic(base_url=server.url, api_key="mk-wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        say(stranger)


def test_headers_when_answered_then_the_boxs_own(sdk: anthropic.Anthropic) -> None:
    raw = sdk.messages.with_raw_response.create(
        model="model", max_tokens=3, messages=HI, extra_body=GREEDY
    )
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    assert raw.headers["x-cache-status"] in ("HIT", "MISS")
    assert float(raw.headers["x-overhead-ms"]) >= 0
    assert raw.headers["x-provider-used"] == "llama_cpp"


def test_models_when_listed_then_as_this_package_reads_them(sdk: anthropic.Anthropic) -> None:
    (info,) = sdk.models.list().data
    assert (info.id, info.type, info.lifecycle) == ("model", "model", "active")
    assert info.display_name
    assert info.created_at.year >= 1970
    assert sdk.models.retrieve("model").id == "model"


async def test_async_client_when_several_ask_at_once_then_all_are_answered(
    server: ServerProcess,
) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key=server.key, max_retries=0
    ) as client:

        async def one(number: int) -> Message:
            return await client.messages.create(
                model="model",
                max_tokens=6,
                messages=[{"role": "user", "content": f"Say the number {number}."}],
            )

        answers = await asyncio.gather(*(one(number) for number in range(4)))
        assert all(answer.usage.output_tokens > 0 for answer in answers)
        async with client.messages.stream(model="model", max_tokens=6, messages=HI) as stream:
            assert await stream.get_final_text()


async def test_async_client_when_it_leaves_a_stream_then_the_next_is_served(
    server: ServerProcess,
) -> None:
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key=server.key, max_retries=0
    ) as client:
        endless = "Tell a very long story about the sea."
        async with client.messages.stream(
            model="model", max_tokens=2000, messages=[{"role": "user", "content": endless}]
        ) as stream:
            assert await anext(aiter(stream.text_stream))
        message = await client.messages.create(model="model", max_tokens=3, messages=HI)
    assert message.usage.output_tokens > 0
