"""Collapse: which candidate becomes the answer.

A candidate that passed everything always comes before one that did not. Among equals:

- weighted_average: three parts verification score, one part agreement (the share of the other
  candidates that behaved the same)
- best_score: the verification score alone
- first_success: as best_score; the first candidate that passed has stopped the others
- consensus: the number of candidates that behaved the same, then the score
- combined: as weighted_average; the synthesized candidate is compared with the best afterwards

Ties go to the smallest change, then to the earlier round and branch.
"""

from collections.abc import Sequence

from appliance.agents.code import python_source
from appliance.agents.run.candidate import Candidate
from appliance.domain.tasks import CollapseStrategy

_SCORE_WEIGHT = 3
_AGREEMENT_WEIGHT = 1


def rank_candidates(candidates: Sequence[Candidate], strategy: CollapseStrategy) -> list[Candidate]:
    """The candidates that have a solution, best first."""
    finished = [c for c in candidates if c.solution is not None]
    agreeing = {c.key: _count_agreeing(c, finished) for c in finished}
    others = max(1, len(finished) - 1)
    return sorted(
        finished,
        key=lambda c: _sort_key(c, agreeing[c.key], agreeing[c.key] / others, strategy),
    )


def choose_answer(
    candidates: Sequence[Candidate], strategy: CollapseStrategy, synthesized: Candidate | None
) -> Candidate | None:
    """The best candidate, or the synthesized one if it is no worse; None if none has a solution."""
    originals = [c for c in candidates if c is not synthesized]
    best = next(iter(rank_candidates(originals, strategy)), None)
    if synthesized is not None and best is not None and _quality(synthesized) >= _quality(best):
        return synthesized
    return best


def _quality(candidate: Candidate) -> tuple[bool, float]:
    return candidate.ok, -1.0 if candidate.score is None else candidate.score


def _sort_key(
    candidate: Candidate, agreeing: int, agreement: float, strategy: CollapseStrategy
) -> tuple[float, ...]:
    score = -1.0 if candidate.score is None else candidate.score
    if strategy is CollapseStrategy.CONSENSUS:
        values = (float(agreeing), score)
    elif strategy in (CollapseStrategy.BEST_SCORE, CollapseStrategy.FIRST_SUCCESS):
        values = (score,)
    else:
        weighted = _SCORE_WEIGHT * score + _AGREEMENT_WEIGHT * agreement
        values = (weighted / (_SCORE_WEIGHT + _AGREEMENT_WEIGHT),)
    solution = candidate.solution
    has_code = solution is not None and solution.code is not None
    change_size = solution.change_size if solution else 0
    best_first = (float(candidate.ok), float(has_code), *values)
    return (*(-value for value in best_first), change_size, *candidate.key)


def _count_agreeing(candidate: Candidate, candidates: Sequence[Candidate]) -> int:
    """How many of the others behaved the same, or have the same code if nothing was run."""
    behavior = _behavior_key(candidate)
    return sum(
        1 for other in candidates if other is not candidate and _behavior_key(other) == behavior
    )


def _behavior_key(candidate: Candidate) -> str:
    if candidate.verdict is not None and candidate.verdict.behavior:
        return candidate.verdict.behavior
    code = candidate.solution.code if candidate.solution else None
    return f"code {python_source.fingerprint(code)}" if code else f"none {candidate.key}"
