"""Output formats, tool calls and sampling end to end, through a real engine."""

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Finished,
    FinishReason,
    Message,
    MessageRole,
    OutputFormat,
    OutputKind,
    RawPrompt,
    Sampling,
    TextDelta,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import complete, provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.asyncio(loop_scope="module")
_PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "age", "tags"],
}
_DOUBLED: dict[str, Any] = {
    "anyOf": [{"items": {"$ref": "#"}, "maxItems": most} for most in (1, 2)]
}
_ADD = Tool(
    "add",
    "Adds",
    {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["a"],
    },
)
_SAY = Tool("say", "", {"properties": {"word": {"type": "string", "maxLength": 3}}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("answers")
    tiny = write_tiny_gguf(folder / "tiny.gguf", context_tokens=2048, fill_in=True)
    made, _ = provider_for(folder, {"tiny": tiny}, threads=1)
    yield made
    await made.close()


def _request(*, seed: int = 1, temperature: float = 1.0, **more: Any) -> CompletionRequest:
    sampling = more.pop("sampling", Sampling(temperature=temperature, seed=seed))
    plain = request("hello", sampling=sampling, max_tokens=more.pop("max_tokens", 300))
    return msgspec.structs.replace(plain, **more)


async def _events(provider: LlamaCppProvider, request_: CompletionRequest) -> list[CompletionEvent]:
    return [event async for event in provider.stream(request_)]


def _schema(schema: dict[str, Any]) -> OutputFormat:
    return OutputFormat(OutputKind.SCHEMA, schema=schema)


async def test_output_when_schema_is_demanded_then_every_answer_fulfils_it(
    provider: LlamaCppProvider,
):
    request_ = [_request(seed=seed, output=_schema(_PERSON), temperature=2.0) for seed in range(6)]
    answers = await asyncio.gather(*(complete(provider, each) for each in request_))
    for text, finished in answers:
        person = json.loads(text)
        assert finished.reason is FinishReason.STOP
        assert 1 <= len(person["name"]) <= 5
        assert 0 <= person["age"] <= 120
        assert set(person["tags"]) <= {"a", "b"}
    assert len({text for text, _ in answers}) > 1


async def test_output_when_json_is_demanded_then_an_object(provider: LlamaCppProvider):
    push = Sampling(temperature=0, logit_bias=tuple((5 + ord(char), 100.0) for char in "{}"))
    request_ = _request(sampling=push, output=OutputFormat(OutputKind.JSON))
    text, finished = await complete(provider, request_)
    assert json.loads(text) == {}
    assert finished.reason is FinishReason.STOP


async def test_output_when_grammar_is_given_then_followed(provider: LlamaCppProvider):
    grammar = 'root ::= "yes" | "no, " [0-9]{3}'
    request_ = [
        _request(seed=seed, output=OutputFormat(OutputKind.GRAMMAR, grammar=grammar))
        for seed in range(4)
    ]
    texts = [(await complete(provider, each))[0] for each in request_]
    assert all(text == "yes" or (text[:4] == "no, " and text[4:].isdigit()) for text in texts)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar="root ::= [")}, "output.grammar"),
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar="root ::= root")}, "output.grammar"),
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar='root ::= ("a"{0,60}){0,60}')},
         "output.grammar"),
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar="#" * 70_000)}, "output.grammar"),
        ({"output": OutputFormat(OutputKind.GRAMMAR, grammar='root ::= "a"'), "tools": (_ADD,)},
         "output.grammar"),
        ({"output": _schema({"items": {"if": {}}})}, "output.schema.items.if"),
        ({"output": _schema(_DOUBLED)},
         "output.schema"),
        ({"tools": (Tool("f", "", {"properties": {"a": {"not": {}}}}),),
          "tool_choice": ToolChoice(ToolUse.REQUIRED)}, "tools[0].parameters.properties.a.not"),
        ({"tools": (Tool("f", "", {"type": "string"}),),
          "tool_choice": ToolChoice(ToolUse.REQUIRED)}, "tools[0].parameters.type"),
        ({"sampling": Sampling(logit_bias=((356, 1.0),))}, "logit_bias"),
    ],
)  # fmt: skip
async def test_request_when_engine_can_not_serve_it_then_refused_by_field_and_next_one_runs(
    provider: LlamaCppProvider, more: dict[str, Any], field: str
):
    with pytest.raises(InvalidInput) as caught:
        await complete(provider, _request(**more))
    assert caught.value.details["field"] == field
    _, finished = await complete(provider, request("next"))
    assert finished.usage.completion_tokens == 8


@pytest.mark.parametrize("parallel", [True, False])
async def test_tools_when_call_is_required_then_valid_calls_and_no_text(
    provider: LlamaCppProvider, parallel: bool
):
    choice = ToolChoice(ToolUse.REQUIRED, parallel=parallel)
    found = 0
    for seed in range(3):
        request_ = _request(seed=seed, tools=(_ADD, _SAY), tool_choice=choice, max_tokens=600)
        *calls, finished = await _events(provider, request_)
        assert isinstance(finished, Finished)
        assert finished.reason is FinishReason.TOOL_CALLS
        assert calls
        for call in calls:
            assert isinstance(call, ToolCall)
            arguments = json.loads(call.arguments)
            assert 1 <= arguments["a"] <= 9 if call.name == "add" else len(arguments) <= 1
        found = max(found, len(calls))
    assert found == 1 or parallel


async def test_tools_when_one_is_named_then_that_one_is_called(provider: LlamaCppProvider):
    choice = ToolChoice(ToolUse.REQUIRED, "say", parallel=False)
    request_ = _request(tools=(_ADD, _SAY), tool_choice=choice)
    call, finished = await _events(provider, request_)
    assert isinstance(call, ToolCall)
    assert call.name == "say"
    assert isinstance(finished, Finished)


async def test_tools_when_model_may_choose_beside_a_schema_then_a_call_or_an_answer(
    provider: LlamaCppProvider,
):
    output = _schema({"const": "done"})
    for start, kind in (("<", ToolCall), ('"', TextDelta)):
        push = Sampling(temperature=0, logit_bias=((5 + ord(start), 100.0),))
        request_ = _request(
            sampling=push, tools=(_ADD,), tool_choice=ToolChoice(parallel=False), output=output
        )
        events = await _events(provider, request_)
        assert {type(event) for event in events[:-1]} == {kind}


async def test_tools_when_model_only_talks_then_text_and_stop_reason_as_ever(
    provider: LlamaCppProvider,
):
    text, finished = await complete(provider, _request(tools=(_ADD,), max_tokens=20))
    assert text
    assert finished.reason is FinishReason.LENGTH


async def test_likelihoods_when_asked_then_one_for_each_token_of_the_text(
    provider: LlamaCppProvider,
):
    request_ = _request(sampling=Sampling(temperature=0, logprobs=2), max_tokens=40)
    deltas = [each for each in await _events(provider, request_) if isinstance(each, TextDelta)]
    likelihoods = [likelihood for delta in deltas for likelihood in delta.likelihoods]
    assert len(likelihoods) == 40
    assert b"".join(each.drawn.bytes for each in likelihoods).decode("utf-8", "replace")
    for each in likelihoods:
        assert each.drawn.logprob <= 0
        assert len(each.top) == 2
        assert each.top[0].logprob == each.drawn.logprob
        assert math.exp(each.top[0].logprob) + math.exp(each.top[1].logprob) <= 1.0001


async def test_likelihoods_when_a_stop_string_ends_the_text_then_without_its_tokens(
    provider: LlamaCppProvider,
):
    whole, _ = await complete(provider, _request(temperature=0, max_tokens=40))
    stop = whole[6:9]
    request_ = _request(sampling=Sampling(temperature=0, logprobs=0, stop=(stop,)), max_tokens=40)
    *deltas, finished = await _events(provider, request_)
    likelihoods = [
        each for delta in deltas if isinstance(delta, TextDelta) for each in delta.likelihoods
    ]
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    assert text == whole[: whole.index(stop)]
    assert isinstance(finished, Finished)
    assert finished.stop == stop
    assert len(likelihoods) < finished.usage.completion_tokens


async def test_bias_when_largest_then_the_token_is_forced(provider: LlamaCppProvider):
    request_ = _request(sampling=Sampling(logit_bias=((5 + ord("k"), 100.0),)), max_tokens=5)
    assert (await complete(provider, request_))[0] == "kkkkk"


async def test_seed_when_same_then_same_answer_also_under_a_schema(provider: LlamaCppProvider):
    request_ = [_request(seed=seed, output=_schema(_PERSON), temperature=2.0) for seed in (4, 4, 5)]
    texts = [(await complete(provider, each))[0] for each in request_]
    assert texts[0] == texts[1] != texts[2]


async def test_raw_when_prompt_has_no_messages_then_continued_and_gap_filled(
    provider: LlamaCppProvider,
):
    for raw in (RawPrompt("def add("), RawPrompt("def add(", "\n    return a + b")):
        request_ = _request(messages=(), raw=raw, max_tokens=6)
        text, finished = await complete(provider, request_)
        assert text
        assert finished.usage.prompt_tokens == await provider.count_tokens(request_)


async def test_count_when_tools_are_given_then_they_count(provider: LlamaCppProvider):
    plain, tooled = _request(), _request(tools=(_ADD,))
    assert await provider.count_tokens(tooled) > await provider.count_tokens(plain) + 50


async def test_talk_when_tools_were_used_then_it_goes_on(provider: LlamaCppProvider):
    call = ToolCall("call_1", "add", '{"a": 1}')
    messages = (
        Message(MessageRole.USER, "1+1?"),
        Message(MessageRole.ASSISTANT, "", (call,)),
        Message(MessageRole.TOOL, "2", tool_call_id="call_1"),
    )
    _, finished = await complete(provider, _request(messages=messages, tools=(_ADD,), max_tokens=8))
    assert finished.usage.completion_tokens == 8


async def test_prefix_when_system_message_is_shared_then_other_owners_reuse_it(
    provider: LlamaCppProvider,
):
    messages = (
        Message(MessageRole.SYSTEM, "You are the coding assistant of this app. " * 3),
        Message(MessageRole.USER, "hello"),
    )
    cached: list[int] = []
    for owner in ("user:1", "user:2"):
        request_ = _request(messages=messages, owner=owner, shared_system=True, max_tokens=2)
        _, finished = await complete(provider, request_)
        cached.append(finished.usage.cached_tokens)
    assert cached[0] == 0 < cached[1]
