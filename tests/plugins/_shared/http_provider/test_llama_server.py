"""The HTTP providers against llama.cpp's server, which speaks OpenAI's and Anthropic's API."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
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
)
from appliance.errors import ContextLengthExceeded, InvalidInput
from appliance.spi.provider import Provider
from plugins.providers.anthropic import register as register_anthropic
from plugins.providers.openai import register as register_openai
from tests.support.fake_upstream import (
    build_provider,
    close_early,
    collect_events,
    completion_request,
    text_of,
)
from tests.support.tiny_gguf import write_tiny_gguf

_SERVER = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 1024, 2, 0
params.use_jinja = True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if sys.argv[2] == "embed":
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(params)
print(json.dumps(server.listening_address), flush=True)
sys.stdin.read()
"""
# Calls are written as the Hermes models do, so that the server knows a form for them.
TEMPLATE = """\
{%- if tools %}<|im_start|>system
<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
GREEDY = Sampling(temperature=0.0)
CITY = {"type": "object", "properties": {"city": {"enum": ["a", "b"]}}, "required": ["city"]}


def server(model: Path, mode: str) -> Generator[str, None, None]:
    argv = [sys.executable, "-c", _SERVER, str(model), mode]
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=nothing) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(b'"http'):
                yield json.loads(line)
                break
        process.kill()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("model") / "tiny.gguf"
    return write_tiny_gguf(file, context_tokens=512, template=TEMPLATE)


@pytest.fixture(scope="module")
def url(model: Path) -> Generator[str, None, None]:
    yield from server(model, "chat")


@pytest.fixture
async def openai(url: str) -> AsyncGenerator[Provider, None]:
    found = build_provider(register_openai, url, "remote")
    yield found
    await found.close()


@pytest.fixture
async def anthropic(url: str) -> AsyncGenerator[Provider, None]:
    found = build_provider(register_anthropic, url, "remote")
    yield found
    await found.close()


@pytest.fixture(params=["openai", "anthropic"])
def either(request: pytest.FixtureRequest) -> Provider:
    return request.getfixturevalue(request.param)


async def test_models_when_listed_then_the_model_is_there_and_can_be_loaded(
    openai: Provider,
) -> None:
    (info,) = await openai.models()
    assert info.context_tokens
    await openai.load(info.name)


async def test_stream_when_greedy_then_both_formats_tell_the_same_text_and_usage(
    openai: Provider, anthropic: Provider
) -> None:
    request = completion_request("Tell me.", sampling=GREEDY, max_tokens=12)
    first, second = await collect_events(openai, request), await collect_events(anthropic, request)
    assert text_of(first) == text_of(second) != ""
    for events in (first, second):
        last = events[-1]
        assert isinstance(last, Finished)
        assert last.reason is FinishReason.LENGTH
        assert last.usage.completion_tokens == 12
        assert last.usage.prompt_tokens == await openai.count_tokens(request)


async def test_count_when_asked_then_both_formats_agree(
    openai: Provider, anthropic: Provider
) -> None:
    request = completion_request("Count me, with ümläuts.")
    assert await openai.count_tokens(request) == await anthropic.count_tokens(request)


async def test_stream_when_likelihoods_are_asked_then_each_token_has_one(
    openai: Provider,
) -> None:
    sampling = Sampling(temperature=0.0, logprobs=3)
    events = await collect_events(openai, completion_request(sampling=sampling, max_tokens=5))
    found = [each for e in events if isinstance(e, TextDelta) for each in e.likelihoods]
    assert len(found) == 5
    assert all(len(each.top) == 3 and each.drawn.logprob <= 0 for each in found)


async def test_stream_when_a_schema_is_asked_then_the_text_is_of_it(openai: Provider) -> None:
    output = OutputFormat(OutputKind.SCHEMA, CITY, name="city")
    events = await collect_events(
        openai, completion_request(sampling=GREEDY, output=output, max_tokens=200)
    )
    assert json.loads(text_of(events))["city"] in ("a", "b")


async def test_stream_when_there_are_tools_and_results_then_the_server_prompts_with_them(
    openai: Provider, anthropic: Provider
) -> None:
    history = (
        Message(MessageRole.USER, "Weather in a?"),
        Message(MessageRole.ASSISTANT, "", (ToolCall("c1", "weather", '{"city":"a"}'),)),
        Message(MessageRole.TOOL, "sunny", tool_call_id="c1"),
    )
    tools = (Tool("weather", "Tells the weather.", CITY),)
    plain = CompletionRequest("m", history, GREEDY, max_tokens=4)
    request = CompletionRequest("m", history, GREEDY, max_tokens=4, tools=tools)
    usages = [
        (await collect_events(openai, request))[-1],
        (await collect_events(anthropic, request))[-1],
    ]
    counts = {last.usage.prompt_tokens for last in usages if isinstance(last, Finished)}
    assert counts == {await openai.count_tokens(request)}
    assert await openai.count_tokens(plain) < min(counts)


async def test_stream_when_the_prompt_is_raw_then_it_goes_on(openai: Provider) -> None:
    request = CompletionRequest("m", sampling=GREEDY, max_tokens=4, raw=RawPrompt("abc"))
    *_, last = await collect_events(openai, request)
    assert isinstance(last, Finished)
    assert last.usage.prompt_tokens == await openai.count_tokens(request)


async def test_stream_when_the_server_would_drop_a_suffix_then_refuses(openai: Provider) -> None:
    with pytest.raises(InvalidInput, match="suffix"):
        await collect_events(openai, CompletionRequest("m", raw=RawPrompt("abc", "xyz")))


async def test_stream_when_the_prompt_does_not_fit_then_says_so_with_counts(
    either: Provider,
) -> None:
    with pytest.raises(ContextLengthExceeded) as caught:
        await collect_events(either, completion_request("x" * 3000, max_tokens=4))
    assert caught.value.details["prompt_tokens"] > caught.value.details["context_tokens"]


async def test_stream_when_closed_early_then_the_server_serves_on(either: Provider) -> None:
    for _ in range(4):
        events = either.stream(completion_request(max_tokens=400))
        await anext(events)
        await close_early(events)
    async with asyncio.timeout(60):
        await collect_events(either, completion_request(max_tokens=2))


async def test_embed_when_the_server_embeds_then_vectors_have_length_one(model: Path) -> None:
    running = server(model, "embed")
    found = build_provider(register_openai, await asyncio.to_thread(next, running), "remote")
    made = await found.embed(EmbeddingRequest("m", ("one", "two words")))
    assert [round(sum(x * x for x in vector), 6) for vector in made.vectors] == [1.0, 1.0]
    assert made.usage.prompt_tokens > 0
    await found.close()
    running.close()
