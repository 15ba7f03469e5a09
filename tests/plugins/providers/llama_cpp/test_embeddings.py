"""Embedding models: normalized vectors, exact counts, in the order of the texts."""

import math
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.messages import EmbeddingRequest
from appliance.domain.models import ModelState
from appliance.errors import ContextLengthExceeded, InvalidInput, ModelUnavailable
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import complete, provider_for, request
from tests.support.tiny_embedder import DIMENSIONS, write_tiny_embedder
from tests.support.tiny_gguf import write_tiny_gguf

pytestmark = pytest.mark.asyncio(loop_scope="module")
CONTEXT = 64


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("embed")
    files = {
        "vectors": write_tiny_embedder(folder / "vectors.gguf", context_tokens=CONTEXT),
        "tiny": write_tiny_gguf(folder / "tiny.gguf"),
    }
    made, _ = provider_for(folder, files, threads=1)
    yield made
    await made.close()


def _request(
    *texts: str, dimensions: int | None = None, model: str = "vectors"
) -> EmbeddingRequest:
    return EmbeddingRequest(model, texts, dimensions)


def _cosine(left: tuple[float, ...], right: tuple[float, ...]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))


async def test_embed_when_given_texts_then_one_vector_of_length_1_each_in_their_order(
    provider: LlamaCppProvider,
):
    made = await provider.embed(_request("abc", "x y z", "abc"))
    assert [len(vector) for vector in made.vectors] == [DIMENSIONS] * 3
    for vector in made.vectors:
        assert math.sqrt(_cosine(vector, vector)) == pytest.approx(1)
    first, second, third = made.vectors
    assert _cosine(first, third) == pytest.approx(1, abs=1e-4)
    assert _cosine(first, second) < 0.999


async def test_embed_when_counted_then_tokens_are_exact(provider: LlamaCppProvider):
    # Each letter is one token here, and the model wants one before and one after a text.
    assert (await provider.embed(_request("abc"))).usage.prompt_tokens == 3 + 2
    assert (await provider.embed(_request("abc", "de"))).usage.prompt_tokens == 3 + 2 + 2 + 2


async def test_embed_when_there_are_many_texts_then_each_is_as_if_alone(
    provider: LlamaCppProvider,
):
    texts = [f"{chr(97 + at % 26)}{at}" for at in range(50)]
    together = (await provider.embed(_request(*texts))).vectors
    assert len(together) == len(texts)
    for at in (0, 17, 49):
        (alone,) = (await provider.embed(_request(texts[at]))).vectors
        assert _cosine(alone, together[at]) == pytest.approx(1, abs=1e-3)


async def test_embed_when_dimensions_are_fewer_then_cut_and_of_length_1_again(
    provider: LlamaCppProvider,
):
    (whole,) = (await provider.embed(_request("abc"))).vectors
    (cut,) = (await provider.embed(_request("abc", dimensions=8))).vectors
    length = math.sqrt(_cosine(whole[:8], whole[:8]))
    assert cut == pytest.approx([value / length for value in whole[:8]], abs=1e-4)


@pytest.mark.parametrize("dimensions", [0, -1, DIMENSIONS + 1])
async def test_embed_when_dimensions_are_senseless_then_refused(
    provider: LlamaCppProvider, dimensions: int
):
    with pytest.raises(InvalidInput, match="dimensions"):
        await provider.embed(_request("abc", dimensions=dimensions))


async def test_embed_when_a_text_just_fits_then_runs_and_one_more_is_refused_with_counts(
    provider: LlamaCppProvider,
):
    await provider.embed(_request("a" * (CONTEXT - 2)))
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\]") as caught:
        await provider.embed(_request("ok", "a" * (CONTEXT - 1)))
    assert caught.value.details["prompt_tokens"] == CONTEXT + 1
    assert caught.value.details["context_tokens"] == CONTEXT


async def test_embed_when_there_is_no_text_or_half_a_character_then_refused(
    provider: LlamaCppProvider,
):
    for texts in ((), ("\ud800",)):
        with pytest.raises(InvalidInput):
            await provider.embed(_request(*texts))


async def test_embed_when_text_holds_special_tokens_then_they_are_plain_text(
    provider: LlamaCppProvider,
):
    usage = (await provider.embed(_request("[SEP]"))).usage
    assert usage.prompt_tokens == len("[SEP]") + 2


async def test_embed_when_model_is_a_text_model_then_rejected(provider: LlamaCppProvider):
    with pytest.raises(InvalidInput, match="is not an embedding model"):
        await provider.embed(_request("abc", model="tiny"))


async def test_stream_when_model_is_an_embedding_model_then_rejected(provider: LlamaCppProvider):
    with pytest.raises(InvalidInput, match="is an embedding model"):
        await complete(provider, request("x", model="vectors"))
    with pytest.raises(InvalidInput, match="is an embedding model"):
        await provider.count_tokens(request("x", model="vectors"))


async def test_models_when_listed_then_embedding_models_are_flagged(provider: LlamaCppProvider):
    await provider.load("vectors")
    infos = {info.name: info for info in await provider.models()}
    assert infos["vectors"].embeds
    assert not infos["tiny"].embeds
    assert infos["vectors"].state is ModelState.READY
    assert infos["vectors"].context_tokens == CONTEXT
    assert infos["vectors"].description.endswith(", embeddings of 32")


async def test_embed_when_engine_is_killed_then_next_request_works(provider: LlamaCppProvider):
    await provider.load("vectors")
    pid = provider.engine_pid("vectors")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert (await provider.embed(_request("abc"))).vectors


async def test_load_when_model_only_ranks_then_says_so(tmp_path: Path):
    path = write_tiny_embedder(tmp_path / "rank.gguf", pooling=4)
    made, _ = provider_for(tmp_path, {"rank": path}, threads=1)
    with pytest.raises(ModelUnavailable, match="ranks texts"):
        await made.load("rank")
    await made.close()
