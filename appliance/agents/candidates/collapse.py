"""Which candidate becomes the answer.

A candidate that passed everything always comes before one that did not. Among equals:

- weighted_average: three parts verification score, one part agreement (the share of the
  other candidates that did the same), as a mean
- best_score: the verification score alone
- first_success: the score too; the first that passed stopped the others already
- consensus: the size of the group that did the same, then the score
- combined: as weighted_average; the merged candidate is held against the best after it

Ties go to the smallest change, then to the earlier round and branch.
"""

from collections.abc import Sequence

from appliance.agents.code import python_source
from appliance.agents.run.candidate import Candidate
from appliance.domain.tasks import CollapseStrategy

_SCORE_WEIGHT = 3
_AGREEMENT_WEIGHT = 1


def ranked(candidates: Sequence[Candidate], strategy: CollapseStrategy) -> list[Candidate]:
    """The candidates with a solution, best first."""
    finished = [c for c in candidates if c.solution is not None]
    alike = {c.key: _alike(c, finished) for c in finished}
    others = max(1, len(finished) - 1)
    return sorted(finished, key=lambda c: _key(c, alike[c.key], alike[c.key] / others, strategy))


def chosen(
    candidates: Sequence[Candidate], strategy: CollapseStrategy, merged: Candidate | None
) -> Candidate | None:
    """The answer: the best one, or the merged one if it is no worse; None if none was finished."""
    best = next(iter(ranked([c for c in candidates if c is not merged], strategy)), None)
    if merged is not None and best is not None and _rank(merged) >= _rank(best):
        return merged
    return best


def _rank(candidate: Candidate) -> tuple[bool, float]:
    return candidate.ok, -1.0 if candidate.score is None else candidate.score


def _key(
    candidate: Candidate, alike: int, agreement: float, strategy: CollapseStrategy
) -> tuple[float, ...]:
    score = -1.0 if candidate.score is None else candidate.score
    if strategy is CollapseStrategy.CONSENSUS:
        values = (float(alike), score)
    elif strategy in (CollapseStrategy.BEST_SCORE, CollapseStrategy.FIRST_SUCCESS):
        values = (score,)
    else:
        weighted = _SCORE_WEIGHT * score + _AGREEMENT_WEIGHT * agreement
        values = (weighted / (_SCORE_WEIGHT + _AGREEMENT_WEIGHT),)
    solution = candidate.solution
    has_code = solution is not None and solution.code is not None
    change = solution.change if solution else 0
    best_first = (float(candidate.ok), float(has_code), *values)
    return (*(-value for value in best_first), change, *candidate.key)


def _alike(candidate: Candidate, candidates: Sequence[Candidate]) -> int:
    """How many of the others did the same, or have the same code where nothing was seen."""
    same = _identity(candidate)
    return sum(1 for other in candidates if other is not candidate and _identity(other) == same)


def _identity(candidate: Candidate) -> str:
    if candidate.verdict is not None and candidate.verdict.behaviour:
        return candidate.verdict.behaviour
    code = candidate.solution.code if candidate.solution else None
    return f"code {python_source.fingerprint(code)}" if code else f"none {candidate.key}"
