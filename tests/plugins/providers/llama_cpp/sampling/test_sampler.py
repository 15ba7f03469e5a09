"""The sampler chain: each part does what it says, on the logits of a tiny model."""

import math
from pathlib import Path

import pytest
from msgspec import structs

from appliance.domain.messages import Sampling
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.sampling import grammar_sampler
from plugins.providers.llama_cpp.sampling import sampler as sampler_module
from plugins.providers.llama_cpp.sampling.grammar_sampler import GrammarSampler
from plugins.providers.llama_cpp.sampling.logits import LogitsArray
from plugins.providers.llama_cpp.sampling.sampler import Sampler
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary
from tests.support.llama_model import BYTES, compute_context, open_model
from tests.support.tiny_gguf import write_tiny_gguf

_PROMPT = [1, 70, 80, 90]
_GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("tiny")
    return open_model(write_tiny_gguf(folder / "tiny.gguf"))


@pytest.fixture(scope="module")
def at(model: Model) -> tuple[Context, int]:
    return compute_context(model, _PROMPT)


def _sample(
    model: Model, at: tuple[Context, int], sampling: Sampling, *, count: int = 1, grammar: str = ""
) -> list[int]:
    sampler = Sampler(model, sampling, _PROMPT, grammar)
    try:
        return [(sampler.sample(*at) or sampler.finish_sample()).token for _ in range(count)]
    finally:
        sampler.close()


def _logits(model: Model, at: tuple[Context, int]) -> list[float]:
    logits = LogitsArray(model)
    logits.read(*at)
    return [logits.logit(token) for token in range(model.vocabulary_size)]


def test_greedy_when_drawn_then_the_likeliest(model: Model, at: tuple[Context, int]):
    logits = _logits(model, at)
    assert _sample(model, at, _GREEDY) == [max(range(len(logits)), key=logits.__getitem__)]


def test_bias_when_largest_then_forces_and_when_lowest_then_forbids(
    model: Model, at: tuple[Context, int]
):
    (best,) = _sample(model, at, _GREEDY)
    assert _sample(model, at, Sampling(temperature=0, logit_bias=((200, 100.0),))) == [200]
    assert _sample(model, at, Sampling(temperature=1, logit_bias=((200, 100.0),), seed=4)) == [200]
    assert _sample(model, at, Sampling(temperature=0, logit_bias=((best, -100.0),))) != [best]


def test_penalties_when_token_was_drawn_then_others_come(model: Model, at: tuple[Context, int]):
    plain = _sample(model, at, _GREEDY, count=12)
    assert len(set(plain)) == 1
    for sampling in (
        Sampling(temperature=0, presence_penalty=2),
        Sampling(temperature=0, frequency_penalty=2),
    ):
        assert len(set(_sample(model, at, sampling, count=12))) > 1
    negative = Sampling(temperature=0, frequency_penalty=-2)
    assert _sample(model, at, negative, count=5) == plain[:5]


def test_penalties_when_token_stands_in_the_prompt_then_only_repetition_counts(
    model: Model, at: tuple[Context, int]
):
    repeated = [_PROMPT[1]]
    push = ((repeated[0], 40.0),)
    presence = Sampling(temperature=0, presence_penalty=2, logit_bias=push)
    repeat = Sampling(temperature=0, repeat_penalty=100, logit_bias=push)
    assert _sample(model, at, presence) == repeated
    assert _sample(model, at, repeat) != repeated


def test_seed_when_same_then_same_draws(model: Model, at: tuple[Context, int]):
    sampled = [
        _sample(model, at, Sampling(temperature=1.5, top_k=0, seed=seed), count=8)
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]


def test_grammar_when_given_then_only_its_tokens_are_drawn(model: Model, at: tuple[Context, int]):
    for seed in range(5):
        sampling = Sampling(temperature=1.5, seed=seed)
        sampled = _sample(model, at, sampling, count=4, grammar="root ::= [x-z]{3}")
        text = b"".join(model.piece(token) for token in sampled[:3]).decode()
        assert set(text) <= set("xyz")
        assert len(text) == 3
        assert model.ends_generation(sampled[3])


def test_grammar_when_seed_is_same_then_same_draws(model: Model, at: tuple[Context, int]):
    sampling = Sampling(temperature=2, top_k=0, seed=9)
    grammar = "root ::= [a-z]*"
    first, second = (_sample(model, at, sampling, count=6, grammar=grammar) for _ in "ab")
    assert first == second


def test_grammar_when_bias_pushes_a_forbidden_token_then_still_not_drawn(
    model: Model, at: tuple[Context, int]
):
    push = Sampling(temperature=0, logit_bias=((BYTES + ord("q"), 100.0),))
    (token,) = _sample(model, at, push, grammar="root ::= [x-z]")
    assert model.piece(token) in {b"x", b"y", b"z"}


def test_grammar_when_no_token_fits_then_only_an_error(model: Model, at: tuple[Context, int]):
    with pytest.raises(NativeError, match="allows no token"):
        _sample(model, at, _GREEDY, grammar='root ::= "\\x00"')


def test_grammar_when_control_token_spells_it_then_not_drawn(model: Model, at: tuple[Context, int]):
    assert load_vocabulary(model).hidden == (0, 1, 3)
    (token,) = _sample(
        model,
        at,
        Sampling(temperature=0, logit_bias=((3, 100.0),)),
        grammar='root ::= "<|im_start|>"',
    )
    assert model.piece(token) == b"<"


def test_likelihoods_when_asked_then_probabilities_of_the_raw_logits(
    model: Model, at: tuple[Context, int]
):
    logits = _logits(model, at)
    total = math.log(sum(math.exp(logit - max(logits)) for logit in logits)) + max(logits)
    sampler = Sampler(model, Sampling(temperature=2, top_k=5, seed=1, logprobs=20), _PROMPT)
    sampled = sampler.sample(*at)
    sampler.close()
    assert sampled is not None
    assert sampled.likelihood is not None
    assert sampled.likelihood.drawn.logprob == pytest.approx(
        logits[sampled.token] - total, abs=1e-3
    )
    expected = sorted((logit - total for logit in logits), reverse=True)[:20]
    assert [each.logprob for each in sampled.likelihood.top] == pytest.approx(expected, abs=1e-3)
    assert sampled.likelihood.drawn.bytes == model.piece(sampled.token)


def test_likelihoods_when_all_tokens_are_summed_then_one(model: Model, at: tuple[Context, int]):
    total = 0.0
    for token in range(model.vocabulary_size):
        sampling = Sampling(temperature=0, logprobs=0, logit_bias=((token, 100.0),))
        sampler = Sampler(model, sampling, _PROMPT)
        sampled = sampler.sample(*at)
        sampler.close()
        assert sampled is not None
        assert sampled.likelihood is not None
        assert sampled.likelihood.top == ()
        total += math.exp(sampled.likelihood.drawn.logprob)
    assert total == pytest.approx(1.0, abs=1e-3)


def test_grammar_when_a_token_takes_too_long_then_only_an_error(
    model: Model, at: tuple[Context, int], monkeypatch: pytest.MonkeyPatch
):
    """F53: the request ends, long before the engine would be taken to hang."""
    monkeypatch.setattr(sampler_module, "_MAX_TOKEN_CPU_S", -1.0)
    with pytest.raises(NativeError, match="for one token"):
        _sample(model, at, _GREEDY, grammar="root ::= [a-z]*")
    assert _sample(model, at, _GREEDY)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0),
        Sampling(temperature=1.5, top_k=5),
        Sampling(temperature=1.5, top_k=40, top_p=0.9, min_p=0.1),
        Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0.5),
        Sampling(temperature=1.5, top_k=20, top_p=0.5, min_p=0, frequency_penalty=1),
    ],
)
def test_grammar_when_likeliest_tokens_decide_then_same_draws_as_from_all(
    model: Model, at: tuple[Context, int], monkeypatch: pytest.MonkeyPatch, sampling: Sampling
):
    """With one token to check first, and with 24, of a vocabulary of 356."""
    decided = list[bool]()
    sample_likeliest = GrammarSampler.sample_likeliest

    def record(sampler: GrammarSampler) -> int | None:
        token = sample_likeliest(sampler)
        decided.append(token is not None)
        return token

    monkeypatch.setattr(GrammarSampler, "sample_likeliest", record)
    for seed in range(20):
        seeded, draws = structs.replace(sampling, seed=seed), list[list[int]]()
        for likeliest in (1, 24):
            monkeypatch.setattr(grammar_sampler, "_LIKELIEST", likeliest)
            decided.clear()
            draws.append(_sample(model, at, seeded, count=8, grammar="root ::= [^a-m]*"))
        assert draws[0] == draws[1]
        assert any(decided)


def test_grammar_when_nothing_is_cut_off_then_draws_as_probable_as_allowed(
    model: Model, at: tuple[Context, int]
):
    """The first sample is taken without the grammar, and another one if that is forbidden."""
    everything = Sampling(temperature=2, top_k=0, top_p=1, min_p=0, seed=3)
    letters = [BYTES + ord(letter) for letter in "abcd"]
    normal = [BYTES + 256 + 1 + ord(letter) - 33 for letter in "abcd"]
    count = 3000
    drawn = _sample(model, at, everything, count=count, grammar="root ::= [a-d]*")
    logits = _logits(model, at)
    end = [token for token in range(len(logits)) if model.ends_generation(token)]
    weights = {token: math.exp(logits[token] / 2) for token in (*letters, *normal, *end)}
    for token, weight in weights.items():
        expected = weight / sum(weights.values())
        deviation = math.sqrt(expected * (1 - expected) / count)
        assert abs(drawn.count(token) / count - expected) < 5 * deviation
