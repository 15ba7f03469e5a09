"""Likelihoods travel with the text of their tokens, wherever that is cut."""

import itertools
import random

import pytest

from appliance.domain.messages import Likelihood, TokenLikelihood
from plugins.providers.llama_cpp.sampling.detokenizer import TextStream


def _of(piece: bytes) -> TokenLikelihood:
    return TokenLikelihood(Likelihood(piece.decode("utf-8", "replace"), -1.0, piece))


def _run(stream: TextStream, pieces: list[bytes]) -> list[tuple[str, list[bytes]]]:
    steps = [
        (stream.push(piece, _of(piece)), [each.drawn.bytes for each in stream.take_likelihoods()])
        for piece in pieces
    ]
    return [*steps, (stream.finish(), [each.drawn.bytes for each in stream.take_likelihoods()])]


def test_told_when_character_is_split_then_with_the_whole_of_it():
    first, last = "é".encode()[:1], "é".encode()[1:]
    assert _run(TextStream(()), [b"a", first, last]) == [
        ("a", [b"a"]),
        ("", []),
        ("é", [first, last]),
        ("", []),
    ]


def test_told_when_text_waits_for_a_stop_string_then_likelihood_waits_too():
    assert _run(TextStream(("STOP",)), [b"a", b"ST", b"x"]) == [
        ("a", [b"a"]),
        ("", []),
        ("STx", [b"ST", b"x"]),
        ("", []),
    ]


def test_told_when_stop_string_comes_then_its_tokens_are_left_out():
    stream = TextStream(("STOP",))
    assert _run(stream, [b"a", b"bS", b"TO", b"P", b"more"]) == [
        ("a", [b"a"]),
        ("b", [b"bS"]),
        ("", []),
        ("", []),
        ("", []),
        ("", []),
    ]
    assert stream.stop == "STOP"


def test_told_when_answer_ends_within_a_character_then_drawn_tokens_are_told():
    half = "é".encode()[:1]
    assert _run(TextStream(()), [half]) == [("", []), ("", [half])]


@pytest.mark.parametrize("seed", range(20))
def test_told_when_pieces_are_random_then_each_once_and_in_order(seed: int):
    rng = random.Random(seed)
    data = "naïve 🐒 STO STOPP 日本 end".encode()
    cuts = [0, *sorted(rng.choices(range(len(data)), k=8)), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(cuts)]
    steps = _run(TextStream(("nothing", "STX")), pieces)
    assert "".join(text for text, _ in steps) == data.decode()
    assert [each for _, likelihoods in steps for each in likelihoods] == pieces
