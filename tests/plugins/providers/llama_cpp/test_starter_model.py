"""The local provider with the real starter model."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.messages import (
    CompletionRequest,
    FinishReason,
    Message,
    MessageRole,
    Sampling,
    TextDelta,
)
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import complete, provider_for, request

pytestmark = pytest.mark.asyncio(loop_scope="module")
_QUESTION = "Write a Python function that adds two numbers."
_PEER = """
import json, sys
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=2048, n_batch=256, verbose=False)
messages = [
    {"role": "system", "content": "You write code."},
    {"role": "user", "content": sys.argv[2]},
]
answer = llama.create_chat_completion(messages, temperature=0.0, max_tokens=24, repeat_penalty=1.0)
print(json.dumps([answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]]))
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(
    tmp_path_factory: pytest.TempPathFactory, starter_model: Path
) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("starter")
    made, _ = provider_for(folder, {"starter": starter_model}, context_tokens=2048)
    yield made
    await made.close()


def _ask(seed: int, *, owner: str = "", max_tokens: int = 16) -> CompletionRequest:
    sampling = Sampling(temperature=0.6, seed=seed)
    return request(
        _QUESTION, model="starter", sampling=sampling, max_tokens=max_tokens, owner=owner
    )


async def test_starter_when_greedy_then_same_as_llama_cpp_python(
    provider: LlamaCppProvider, starter_model: Path
):
    argv = [sys.executable, "-c", _PEER, str(starter_model), _QUESTION]
    peer = await asyncio.to_thread(
        subprocess.run, argv, check=True, capture_output=True, timeout=120
    )
    text, prompt_tokens = json.loads(peer.stdout)
    messages = (
        Message(MessageRole.SYSTEM, "You write code."),
        Message(MessageRole.USER, _QUESTION),
    )
    request_ = CompletionRequest("starter", messages, Sampling(temperature=0.0), 24)
    ours, finished = await complete(provider, request_)
    assert (ours.strip(), finished.usage.prompt_tokens) == (text.strip(), prompt_tokens)


async def test_starter_when_eight_candidates_then_prefix_is_shared_and_seeds_count(
    provider: LlamaCppProvider,
):
    answers = await asyncio.gather(
        *(complete(provider, _ask(seed, owner="task")) for seed in range(8))
    )
    prompt = answers[0][1].usage.prompt_tokens
    cached = sorted(finished.usage.cached_tokens for _, finished in answers)
    assert cached == [0, *[prompt - 1] * 7]
    assert len({text for text, _ in answers}) > 1
    alone = [await complete(provider, _ask(seed, owner="task")) for seed in (2, 5)]
    assert [text for text, _ in alone] == [answers[2][0], answers[5][0]]


async def test_starter_when_asked_to_repeat_emoji_then_each_event_has_whole_characters(
    provider: LlamaCppProvider,
):
    request_ = request(
        "Repeat exactly: 🐒🐒🐒 naïve café 日本",
        model="starter",
        sampling=Sampling(temperature=0.0),
        max_tokens=24,
    )
    pieces = [
        event.text async for event in provider.stream(request_) if isinstance(event, TextDelta)
    ]
    assert pieces
    assert all("\ufffd" not in piece for piece in pieces)


async def test_starter_when_answer_is_done_then_stops_by_itself(provider: LlamaCppProvider):
    request_ = request(
        "Say hi.", model="starter", sampling=Sampling(temperature=0.0), max_tokens=200
    )
    text, finished = await complete(provider, request_)
    assert finished.reason is FinishReason.STOP
    assert "<|" not in text


async def test_starter_when_candidate_is_cancelled_then_the_others_finish(
    provider: LlamaCppProvider,
):
    others = [asyncio.create_task(complete(provider, _ask(seed, owner="c"))) for seed in range(3)]
    async with aclosing(provider.stream(_ask(9, owner="c", max_tokens=1000))) as doomed:
        await anext(doomed)
    answers = await asyncio.gather(*others)
    assert all(finished.usage.completion_tokens for _, finished in answers)
