"""Which candidate becomes the answer, by each strategy."""

import pytest

from appliance.agents.candidates.collapse import choose_answer, rank_candidates
from appliance.agents.code.solution import Solution
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.execution_plan import CandidateSampling
from appliance.agents.verification.verifier import Verdict
from appliance.domain.tasks import (
    BranchStatus,
    CollapseStrategy,
    Verification,
    VerificationLevel,
)

WEIGHTED = CollapseStrategy.WEIGHTED_AVERAGE
BEST = CollapseStrategy.BEST_SCORE
CONSENSUS = CollapseStrategy.CONSENSUS
ALL = list(CollapseStrategy)


def candidate(
    branch: int,
    passed: int,
    failed: int,
    *,
    behavior: str = "",
    change: int = 10,
    round_: int = 0,
    scored: bool = True,
) -> Candidate:
    count = passed + failed
    verification = Verification(
        level=VerificationLevel.EXAMPLES if scored else VerificationLevel.SYNTAX,
        passed=passed,
        failed=failed,
        score=passed / count if scored and count else None,
    )
    solution = Solution("text", "", "python", "a.py", f"x = {branch}\n", change_size=change)
    sampling = CandidateSampling(round_, branch, branch, 0.0)
    return Candidate(
        sampling,
        BranchStatus.COMPLETED,
        None,
        solution,
        Verdict(verification, behavior or str(branch)),
    )


@pytest.mark.parametrize("strategy", ALL)
def test_rank_candidates_when_one_passes_everything_then_it_wins_by_every_strategy(
    strategy: CollapseStrategy,
) -> None:
    candidates = [
        candidate(0, 9, 1, behavior="same"),
        candidate(1, 9, 1, behavior="same"),
        candidate(2, 10, 0, change=999),
    ]
    assert rank_candidates(candidates, strategy)[0].sampling.branch == 2


@pytest.mark.parametrize("strategy", ALL)
def test_rank_candidates_when_all_are_equal_then_the_smallest_change_wins(
    strategy: CollapseStrategy,
) -> None:
    candidates = [candidate(n, 1, 0, behavior="same", change=30 - n) for n in range(3)]
    assert [c.sampling.branch for c in rank_candidates(candidates, strategy)] == [2, 1, 0]


@pytest.mark.parametrize(("strategy", "winner"), [(BEST, 0), (WEIGHTED, 1), (CONSENSUS, 1)])
def test_rank_candidates_when_agreement_speaks_against_the_score_then_the_strategy_decides(
    strategy: CollapseStrategy, winner: int
) -> None:
    candidates = [
        candidate(0, 6, 4),
        candidate(1, 5, 5, behavior="same"),
        candidate(2, 5, 5, behavior="same"),
    ]
    assert rank_candidates(candidates, strategy)[0].sampling.branch == winner


def test_rank_candidates_when_agreement_is_small_then_the_score_weighs_more() -> None:
    candidates = [
        candidate(0, 9, 1),
        candidate(1, 1, 9, behavior="same"),
        candidate(2, 1, 9, behavior="same"),
    ]
    assert rank_candidates(candidates, WEIGHTED)[0].sampling.branch == 0
    assert rank_candidates(candidates, CONSENSUS)[0].sampling.branch == 1


def test_rank_candidates_when_nothing_has_a_score_then_what_can_be_read_comes_first() -> None:
    candidates = [candidate(0, 0, 1, scored=False), candidate(1, 1, 0, scored=False)]
    assert rank_candidates(candidates, WEIGHTED)[0].sampling.branch == 1


def test_rank_candidates_when_a_repair_is_no_better_then_the_first_round_wins() -> None:
    candidates = [candidate(1, 1, 1, round_=1), candidate(1, 1, 1)]
    assert rank_candidates(candidates, BEST)[0].sampling.round == 0


def test_rank_candidates_when_a_candidate_was_not_finished_then_it_can_not_win() -> None:
    late = Candidate(CandidateSampling(0, 0, 0, 0.0), BranchStatus.CANCELLED)
    assert [c.sampling.branch for c in rank_candidates([late, candidate(1, 0, 2)], BEST)] == [1]
    assert choose_answer([late], BEST, None) is None


@pytest.mark.parametrize(("passed", "winner"), [(2, 9), (1, 0)])
def test_choose_answer_when_candidates_were_combined_then_the_combination_has_to_be_no_worse(
    passed: int, winner: int
) -> None:
    synthesized = candidate(9, passed, 2 - passed, round_=1, change=999)
    best = choose_answer([candidate(0, 2, 0), synthesized], CollapseStrategy.COMBINED, synthesized)
    assert best is not None
    assert best.sampling.branch == winner
