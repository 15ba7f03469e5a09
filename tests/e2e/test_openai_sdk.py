"""The official `openai` package against a real server with a real model: every feature."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from tests.support.polling import until
from tests.support.server_process import ServerProcess

MODEL = "model"
HELLO: list[Any] = [
    {"role": "developer", "content": "You are brief."},
    {"role": "user", "content": [{"type": "text", "text": "Say hello."}]},
]
STORY: list[Any] = [{"role": "user", "content": "Write a very long story about monkeys."}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]


class City(BaseModel):
    name: str
    big: bool


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120
    ) as opened:
        yield opened


@pytest.fixture
async def async_client(server: ServerProcess) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key=server.key, max_retries=0, timeout=120
    ) as opened:
        yield opened


def hello(client: openai.OpenAI, **options: Any) -> ChatCompletion:
    fields: dict[str, Any] = {"messages": HELLO, "max_tokens": 12, "temperature": 0} | options
    create: Any = client.chat.completions.create
    return create(model=MODEL, **fields)


def text_of(answer: ChatCompletion, choice: int = 0) -> str:
    return answer.choices[choice].message.content or ""


def texts_of(chunks: Iterable[ChatCompletionChunk]) -> dict[int, str]:
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            text = texts.get(choice.index, "")
            texts[choice.index] = text + (choice.delta.content or "")
    return texts


def test_models_when_asked_then_listed_and_found(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.object) == (MODEL, "llama_cpp", "model")
    assert client.models.retrieve(f"llama_cpp/{MODEL}").id == MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing")


def test_chat_when_asked_then_an_answer_with_exact_usage(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_completion_tokens=12, temperature=0
    )
    answer = raw.parse()
    assert text_of(answer)
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 12
    assert answer.usage.prompt_tokens > 10
    assert answer.system_fingerprint == hello(client).system_fingerprint
    assert raw.headers["x-provider-used"] == "llama_cpp"
    assert float(raw.headers["x-overhead-ms"]) >= 0
    again = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_completion_tokens=12, temperature=0
    )
    assert again.headers["x-cache-status"] == "HIT"
    assert text_of(again.parse()) == text_of(answer)


def test_stream_when_asked_then_the_same_text_and_usage(client: openai.OpenAI) -> None:
    hello(client, max_tokens=1)  # from here on the prompt is computed, for both alike
    whole = hello(client, extra_body={"cache": False})
    chunks = list(
        client.chat.completions.create(
            model=MODEL,
            messages=HELLO,
            max_tokens=12,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"cache": False},
        )
    )
    assert texts_of(chunks)[0] == text_of(whole)
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


def test_chat_when_the_seed_is_the_same_then_the_text_too(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1, "seed": 11, "extra_body": {"cache": False}}
    first, second = (hello(client, messages=STORY, **options) for _ in range(2))
    assert text_of(first) == text_of(second)
    others = {text_of(hello(client, messages=STORY, temperature=1, seed=seed)) for seed in range(4)}
    assert len(others) > 1


def test_chat_when_two_choices_then_both_with_their_own_seed(client: openai.OpenAI) -> None:
    answer = hello(client, messages=STORY, n=2, temperature=1, seed=11)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert text_of(answer, 0) != text_of(answer, 1)
    alone = hello(client, messages=STORY, max_tokens=1)
    assert answer.usage is not None
    assert alone.usage is not None
    assert answer.usage.prompt_tokens == alone.usage.prompt_tokens
    stream = client.chat.completions.create(
        model=MODEL, messages=STORY, n=2, temperature=1, max_tokens=8, stream=True
    )
    assert set(texts_of(stream)) == {0, 1}


def test_chat_when_stopped_by_a_word_then_without_it(client: openai.OpenAI) -> None:
    whole = text_of(hello(client))
    word = whole[2:5]
    for stop in (word, [word, "never"]):
        answer = hello(client, stop=stop)
        assert text_of(answer) == whole[: whole.index(word)]
        assert answer.choices[0].finish_reason == "stop"


def test_chat_when_likelihoods_are_wanted_then_one_per_token(client: openai.OpenAI) -> None:
    answer = hello(client, logprobs=True, top_logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert "".join(token.token for token in logprobs.content).startswith(text_of(answer))
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob)
        assert bytes(token.bytes or []).decode(errors="replace") == token.token
    stream = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=5, temperature=0, logprobs=True, stream=True
    )
    tokens = [
        token.token
        for chunk in stream
        for choice in chunk.choices
        if choice.logprobs
        for token in choice.logprobs.content or []
    ]
    assert tokens == [token.token for token in logprobs.content[:5]]


def test_chat_when_a_token_is_favoured_then_it_alone_comes(client: openai.OpenAI) -> None:
    answer = hello(client, logit_bias={"500": 100}, max_tokens=3, logprobs=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert len({token.token for token in logprobs.content or []}) == 1
    assert text_of(answer) != text_of(hello(client, max_tokens=3))


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_chat_when_json_is_wanted_then_json_comes(kind: str, client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    response_format: dict[str, Any] = {"type": kind}
    if kind == "json_schema":
        response_format["json_schema"] = {"name": "mood", "schema": schema, "strict": True}
    answer = hello(client, response_format=response_format, max_tokens=200)
    if kind == "json_schema":
        assert json.loads(text_of(answer))["mood"] in ("good", "bad")
    elif answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text_of(answer)), dict)


def test_chat_when_parsed_or_helped_then_a_model_of_pydantic(client: openai.OpenAI) -> None:
    question: list[Any] = [{"role": "user", "content": "Is Bern a big city?"}]
    parsed = client.chat.completions.parse(
        model=MODEL, messages=question, response_format=City, max_tokens=200, temperature=0
    )
    assert isinstance(parsed.choices[0].message.parsed, City)
    with client.chat.completions.stream(
        model=MODEL, messages=question, response_format=City, max_tokens=200, temperature=0
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == parsed.choices[0].message.parsed
    assert {"chunk", "content.delta", "content.done"} <= kinds


def test_chat_when_a_grammar_is_sent_then_kept(client: openai.OpenAI) -> None:
    answer = hello(client, extra_body={"grammar": 'root ::= "yes" | "no"'})
    assert text_of(answer) in ("yes", "no")


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_tools_when_one_must_be_used_then_asked_for_and_answered(
    choice: Any, client: openai.OpenAI
) -> None:
    question: list[Any] = [{"role": "user", "content": "What is the weather in Bern?"}]
    answer = hello(
        client, messages=question, tools=WEATHER, tool_choice=choice,
        parallel_tool_calls=False, max_tokens=100,
    )  # fmt: skip
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name in ("get_weather", "get_time")
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert isinstance(arguments["city"], str)
    turns: list[Any] = [
        *question,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"},
    ]
    assert text_of(hello(client, messages=turns, tools=WEATHER, tool_choice="none"))


def test_tools_when_streamed_then_the_helper_puts_them_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model=MODEL,
        messages=[{"role": "user", "content": "What is the weather in Bern?"}],
        tools=WEATHER[:1],
        tool_choice="required",
        temperature=0,
        max_tokens=100,
    ) as stream:
        final = stream.get_final_completion()
    (call, *_) = final.choices[0].message.tool_calls or []
    assert isinstance(json.loads(call.function.arguments)["city"], str)


def test_functions_when_an_old_client_asks_then_function_call(client: openai.OpenAI) -> None:
    answer = hello(
        client,
        functions=[WEATHER[0]["function"]],
        function_call={"name": "get_weather"},
        max_tokens=100,
    )
    assert answer.choices[0].finish_reason == "function_call"
    called = answer.choices[0].message.function_call
    assert called is not None
    assert called.name == "get_weather"
    turns: list[Any] = [
        *HELLO,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "function", "name": "get_weather", "content": "Sunny"},
    ]
    assert text_of(hello(client, messages=turns))


def test_completion_when_asked_then_the_text_goes_on(client: openai.OpenAI) -> None:
    create: Any = client.completions.create
    options: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0}
    prompt = "def add(a, b):\n    return"
    answer = create(prompt=prompt, echo=True, **options)
    assert answer.choices[0].text.startswith(prompt)
    several = create(prompt=[prompt, "import"], n=2, **options)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    logprobs = create(prompt=prompt, logprobs=2, **options).choices[0].logprobs
    assert 0 < len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    best = create(model=MODEL, prompt=prompt, best_of=3, max_tokens=4, temperature=1)
    assert len(best.choices) == 1
    pieces = create(prompt=prompt, stream=True, **options)
    assert "".join(each.choices[0].text for each in pieces) == answer.choices[0].text[len(prompt) :]


def test_completion_when_the_model_can_fill_no_gap_then_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model=MODEL, prompt="def f(x):", suffix="return y")


def test_embeddings_when_the_model_writes_text_then_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=MODEL, input="x")


@pytest.mark.parametrize("stream", [False, True])
def test_chat_when_it_can_not_be_served_then_its_own_exceptions(
    stream: bool, client: openai.OpenAI
) -> None:
    with pytest.raises(openai.AuthenticationError):
        hello(client.with_options(api_key="mk-nobody"), stream=stream)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nothing", messages=HELLO, stream=stream)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        hello(client, messages=[{"role": "user", "content": "monkey " * 20_000}], stream=stream)
    assert long.value.code == "context_length_exceeded"
    assert any(character.isdigit() for character in long.value.message)
    with pytest.raises(openai.BadRequestError) as hot:
        hello(client, temperature=3, stream=stream)
    assert hot.value.param == "temperature"
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    with pytest.raises(openai.BadRequestError) as unsupported:
        hello(client, messages=[{"role": "user", "content": [image]}], stream=stream)
    assert unsupported.value.param == "messages[0].content[0]"


def test_stream_when_the_client_leaves_then_the_server_is_free_again(client: openai.OpenAI) -> None:
    for _ in range(12):
        stream = client.chat.completions.create(model=MODEL, messages=STORY, stream=True)
        assert len(list(itertools.islice(stream, 3))) == 3
        stream.close()
    assert text_of(hello(client))


async def test_async_when_many_ask_at_once_then_each_gets_its_own(
    async_client: openai.AsyncOpenAI,
) -> None:
    async def one(number: int) -> str:
        answer = await async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Count up from {number}."}],
            max_tokens=8,
            temperature=0,
        )
        return text_of(answer)

    async def streamed(number: int) -> str:
        stream = await async_client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": f"Count up from {number}."}],
            max_tokens=8,
            temperature=0,
            stream=True,
        )
        return "".join(
            [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
        )

    answers = await asyncio.gather(*(each(n) for n in range(3) for each in (one, streamed)))
    assert all(answers)


async def test_async_when_a_call_is_given_up_then_the_next_is_served(
    async_client: openai.AsyncOpenAI, server: ServerProcess
) -> None:
    async def all_under_way() -> bool:
        health = await client.get(f"{server.url}/health/comprehensive")
        load = health.json()["completions"]
        return load["running"] + load["waiting"] == len(calls)

    calls = [
        asyncio.create_task(async_client.chat.completions.create(model=MODEL, messages=STORY))
        for _ in range(4)
    ]
    async with httpx.AsyncClient() as client:
        await until(all_under_way)
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    answer = await async_client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4)
    assert answer.choices
