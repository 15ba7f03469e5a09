"""Embeddings: the official `openai` package against a real server and its engines."""

import base64
import math
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.support.minilm import write_minilm
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_embedder import DIMENSIONS, write_tiny_embedder
from tests.support.tiny_gguf import write_tiny_gguf

_CONTEXT = 64
# A folder as tests.support.minilm takes it; the model is too large to be fetched for a test.
_REAL = "MONKEY_CODER_TEST_EMBEDDER"


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("vectors")
    data, words = folder / "data", ("--in-place", "--alias")
    embedder = write_tiny_embedder(folder / "vectors.gguf", context_tokens=_CONTEXT)
    with running_server(data, write_tiny_gguf(folder / "tiny.gguf")) as server:
        command("model", "add", embedder, *words, "vectors", "--data-dir", data)
        server.make_key()
        server.wait_ready()
        yield server


@pytest.fixture
def client(vectors: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{vectors.url}/v1", api_key=vectors.key, max_retries=0, timeout=60
    ) as opened:
        yield opened


def embed(client: openai.OpenAI, texts: Any, **options: Any) -> list[list[float]]:
    answer = client.embeddings.create(model="vectors", input=texts, **options)
    assert [each.index for each in answer.data] == list(range(len(answer.data)))
    return [each.embedding for each in answer.data]


def test_embeddings_when_asked_then_vectors_of_length_1_and_exact_usage(client: openai.OpenAI):
    answer = client.embeddings.create(model="vectors", input=["abc", "de"])
    assert (answer.object, answer.model) == ("list", "vectors")
    for each in answer.data:
        assert len(each.embedding) == DIMENSIONS
        assert math.hypot(*each.embedding) == pytest.approx(1, abs=1e-4)
    # Each letter is one token here, and the model wants one before and one after a text.
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (9, 9)


def test_embeddings_when_asked_as_numbers_or_packed_then_the_same(client: openai.OpenAI):
    (plain,) = embed(client, "abc", encoding_format="float")
    raw: Any = client.embeddings.with_raw_response.create(
        model="vectors", input="abc", encoding_format="base64"
    )
    packed = raw.http_response.json()["data"][0]["embedding"]
    assert struct.unpack(f"<{DIMENSIONS}f", base64.b64decode(packed)) == pytest.approx(plain)
    # The package itself asks for them packed, and unpacks them.
    assert embed(client, "abc")[0] == pytest.approx(plain)


def test_embeddings_when_there_are_many_texts_then_each_as_if_alone(client: openai.OpenAI):
    texts = [f"{chr(97 + at % 26)}{at}" for at in range(40)]
    together = embed(client, texts)
    assert len(together) == len(texts)
    for at in (0, 39):
        assert together[at] == pytest.approx(embed(client, texts[at])[0], abs=1e-3)


def test_embeddings_when_fewer_dimensions_are_asked_then_cut_and_of_length_1(
    client: openai.OpenAI,
):
    (whole,), (cut,) = embed(client, "abc"), embed(client, "abc", dimensions=8)
    length = math.hypot(*whole[:8])
    assert cut == pytest.approx([value / length for value in whole[:8]], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"input": "abc", "dimensions": DIMENSIONS + 1}, "dimensions"),
        ({"input": "abc", "dimensions": 0}, "dimensions"),
        ({"input": []}, "input"),
        ({"input": ["ok", "a" * _CONTEXT]}, r"input\[1\]"),
        ({"input": "abc", "model": "model"}, "is not an embedding model"),
    ],
)
def test_embeddings_when_they_can_not_be_made_then_refused_with_the_reason(
    client: openai.OpenAI, body: dict[str, Any], message: str
):
    create: Any = client.embeddings.create
    with pytest.raises(openai.BadRequestError, match=message):
        create(**({"model": "vectors"} | body))


def test_chat_when_the_model_makes_vectors_then_refused_in_either_format(
    client: openai.OpenAI, vectors: ServerProcess
):
    hello: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.BadRequestError, match="is an embedding model"):
        client.chat.completions.create(model="vectors", messages=hello)
    with pytest.raises(openai.BadRequestError, match="is an embedding model"):
        client.completions.create(model="vectors", prompt="hello")
    other = anthropic.Anthropic(base_url=vectors.url, api_key=vectors.key, max_retries=0)
    with pytest.raises(anthropic.BadRequestError, match="is an embedding model"):
        other.messages.create(model="vectors", messages=hello, max_tokens=5)


def test_models_when_listed_then_since_when_they_are_registered(
    client: openai.OpenAI, vectors: ServerProcess
):
    openai_models = {each.id: each.created for each in client.models.list()}
    assert openai_models.keys() == {"model", "vectors"}
    assert all(time.time() - 600 < created <= time.time() for created in openai_models.values())
    other = anthropic.Anthropic(base_url=vectors.url, api_key=vectors.key, max_retries=0)
    anthropic_models = {each.id: int(each.created_at.timestamp()) for each in other.models.list()}
    assert anthropic_models == openai_models


@pytest.mark.skipif(_REAL not in os.environ, reason=f"{_REAL} names no folder with the model")
def test_embeddings_when_the_model_is_a_real_one_then_what_means_the_same_lies_near(
    tmp_path: Path,
):
    model = write_minilm(Path(os.environ[_REAL]), tmp_path / "minilm.gguf")
    texts = [
        "How do I sort a list in Python?",
        "Ordering the elements of a Python list",
        "The cat sleeps on the warm roof.",
        "A kitten is napping on top of the house.",
    ]
    with (
        running_server(tmp_path / "data", model) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.make_key(), timeout=60) as client,
    ):
        answer = client.embeddings.create(model="model", input=texts)
    vectors = [each.embedding for each in answer.data]
    assert {len(vector) for vector in vectors} == {384}
    near = _cosine(vectors[0], vectors[1]), _cosine(vectors[2], vectors[3])
    far = [_cosine(one, other) for one in vectors[:2] for other in vectors[2:]]
    assert min(near) > 0.5
    assert max(far) < 0.2


def _cosine(left: list[float], right: list[float]) -> float:
    return sum(one * other for one, other in zip(left, right, strict=True))
