"""Long texts are tokenized in pieces with the same tokens, and given up early if too long."""

import random

import pytest

from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.prompt.tokenizer import Tokenizer, TooManyTokens
from tests.support.llama_model import open_model
from tests.support.tiny_gguf import write_tiny_gguf

_PARTS = (
    "<|im_start|>",
    "<|im_end|>",
    "\n",
    " ",
    "  ",
    "user",
    "<s>",
    "<",
    "|>",
    "word ",
    "é",
    "</s",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


@pytest.mark.parametrize("parse_special", [True, False])
def test_text_when_it_is_long_then_the_same_tokens_as_in_one_piece(
    model: Model, *, parse_special: bool
):
    """F62: special tokens at any place, also beside blanks and parts of their own text."""
    drawn, tokenizer = random.Random(7), Tokenizer(model)
    for _ in range(20):
        text = "".join(drawn.choices(_PARTS, k=5000))
        expected = model.tokenize(text, parse_special=parse_special)
        assert tokenizer.tokenize(text, parse_special=parse_special) == expected


def test_text_when_it_has_many_special_tokens_then_given_to_llama_in_short_pieces(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    """F62: llama.cpp's time grows with the square of a text with many special tokens."""
    lengths: list[int] = []
    tokenize = model.tokenize

    def record(text: str, *, parse_special: bool) -> list[int]:
        lengths.append(len(text))
        return tokenize(text, parse_special=parse_special)

    tokenizer = Tokenizer(model)
    monkeypatch.setattr(model, "tokenize", record)
    tokenizer.tokenize("<|im_start|>user\na<|im_end|>\n" * 2000, parse_special=True)
    assert len(lengths) > 10
    assert max(lengths) < 5000


def test_text_when_its_bytes_exceed_the_room_then_refused_before_it_is_tokenized(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = Tokenizer(model)
    monkeypatch.delattr(Model, "tokenize")
    with pytest.raises(TooManyTokens) as caught:
        tokenizer.tokenize("x" * 100_000, parse_special=True, room=512)
    assert caught.value.at_least > 512


def test_text_when_too_many_tokens_are_found_then_the_rest_is_not_tokenized(model: Model):
    text, checked = "<|im_start|>" * 5000, list[int]()
    with pytest.raises(TooManyTokens):
        Tokenizer(model).tokenize(
            text, parse_special=True, room=100, check=lambda: checked.append(0)
        )
    assert len(checked) < 5


@pytest.mark.parametrize("text", ["x" * 500_000, "word " * 100_000, "<|im_start|>a" * 38_000])
def test_text_when_it_is_far_too_long_then_only_its_start_is_tokenized(
    model: Model, monkeypatch: pytest.MonkeyPatch, text: str
):
    """F62: a megabyte without special tokens took llama.cpp seconds before it was refused."""
    given: list[str] = []
    tokenize, tokenizer = model.tokenize, Tokenizer(model)

    def record(text: str, *, parse_special: bool) -> list[int]:
        given.append(text)
        return tokenize(text, parse_special=parse_special)

    monkeypatch.setattr(model, "tokenize", record)
    with pytest.raises(TooManyTokens) as caught:
        tokenizer.tokenize(text, parse_special=True, room=44_000)
    assert 44_000 < caught.value.at_least < 50_000
    assert sum(map(len, given)) < len(text)


def test_text_when_it_is_long_but_fits_then_it_is_not_refused(model: Model):
    text = "<|im_start|>" * 40_000

    tokens = Tokenizer(model).tokenize(text, parse_special=True, room=40_000)
    assert len(tokens) == 40_000
