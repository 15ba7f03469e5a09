"""If the checked tokens decide, they are cut off as they would be among all tokens."""

import math
import random

import pytest

from plugins.providers.llama_cpp.sampling.truncation import Truncation


def _kept(logits: list[float], truncation: Truncation) -> int:
    """How many of these tokens are kept, by the definitions of top-k, top-p and min-p."""
    if truncation.greedy:
        return 1
    top = logits[: truncation.top_k or None]
    weights = [math.exp(logit) for logit in top]
    total, running, end = sum(weights), 0.0, len(weights)
    if truncation.top_p < 1:
        for at, weight in enumerate(weights, 1):
            running += weight
            if running >= truncation.top_p * total:
                end = at
                break
    return sum(weight >= truncation.min_p * weights[0] for weight in weights[:end])


@pytest.mark.parametrize("seed", range(40))
def test_truncation_when_checked_tokens_decide_then_all_tokens_agree(seed: int):
    rng = random.Random(seed)
    decided = 0
    for _ in range(100):
        logits = sorted((rng.gauss(0, 4) for _ in range(60)), reverse=True)
        checked, share = rng.randint(1, 59), rng.random()
        allowed = [at for at in range(60) if rng.random() < share]
        first = [logits[at] for at in allowed if at < checked]
        truncation = Truncation(
            greedy=rng.random() < 0.1,
            top_k=rng.choice([0, 1, 5, 20]),
            top_p=rng.choice([0.3, 0.9, 1.0]),
            min_p=rng.choice([0.0, 0.05, 0.3]),
        )
        if truncation.ends_within(first, logits[checked - 1], 60 - checked):
            decided += 1
            assert _kept(first, truncation) == _kept([logits[at] for at in allowed], truncation)
    assert decided > 10


def test_truncation_when_nothing_is_cut_off_then_only_all_tokens_decide():
    keeps_all = Truncation(greedy=False, top_k=0, top_p=1.0, min_p=0.0)
    assert keeps_all.keeps_all
    assert not keeps_all.ends_within([1.0, 0.5], -50.0, 1)
    assert keeps_all.ends_within([1.0, 0.5], -50.0, 0)


def test_truncation_when_no_checked_token_is_allowed_then_undecided():
    assert not Truncation(greedy=True, top_k=0, top_p=1.0, min_p=0.0).ends_within([], 0.0, 1)
