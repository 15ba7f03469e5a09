"""Which candidate becomes the answer, by each strategy."""

import pytest

from appliance.agents.candidates.collapse import chosen, ranked
from appliance.agents.code.solution import Solution
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.plan import Draw
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
    behaviour: str = "",
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
    made = Solution("text", "", "python", "a.py", f"x = {branch}\n", change=change)
    drawn = Draw(round_, branch, branch, 0.0)
    return Candidate(
        drawn, BranchStatus.COMPLETED, None, made, Verdict(verification, behaviour or str(branch))
    )


@pytest.mark.parametrize("strategy", ALL)
def test_ranked_when_one_passes_everything_then_it_wins_by_every_strategy(
    strategy: CollapseStrategy,
) -> None:
    candidates = [
        candidate(0, 9, 1, behaviour="same"),
        candidate(1, 9, 1, behaviour="same"),
        candidate(2, 10, 0, change=999),
    ]
    assert ranked(candidates, strategy)[0].draw.branch == 2


@pytest.mark.parametrize("strategy", ALL)
def test_ranked_when_all_are_equal_then_the_smallest_change_wins(
    strategy: CollapseStrategy,
) -> None:
    candidates = [candidate(n, 1, 0, behaviour="same", change=30 - n) for n in range(3)]
    assert [c.draw.branch for c in ranked(candidates, strategy)] == [2, 1, 0]


@pytest.mark.parametrize(("strategy", "winner"), [(BEST, 0), (WEIGHTED, 1), (CONSENSUS, 1)])
def test_ranked_when_agreement_speaks_against_the_score_then_the_strategy_decides(
    strategy: CollapseStrategy, winner: int
) -> None:
    candidates = [
        candidate(0, 6, 4),
        candidate(1, 5, 5, behaviour="same"),
        candidate(2, 5, 5, behaviour="same"),
    ]
    assert ranked(candidates, strategy)[0].draw.branch == winner


def test_ranked_when_agreement_is_small_then_the_score_weighs_more() -> None:
    candidates = [
        candidate(0, 9, 1),
        candidate(1, 1, 9, behaviour="same"),
        candidate(2, 1, 9, behaviour="same"),
    ]
    assert ranked(candidates, WEIGHTED)[0].draw.branch == 0
    assert ranked(candidates, CONSENSUS)[0].draw.branch == 1


def test_ranked_when_nothing_has_a_score_then_what_can_be_read_comes_first() -> None:
    candidates = [candidate(0, 0, 1, scored=False), candidate(1, 1, 0, scored=False)]
    assert ranked(candidates, WEIGHTED)[0].draw.branch == 1


def test_ranked_when_a_repair_is_no_better_then_the_first_round_wins() -> None:
    candidates = [candidate(1, 1, 1, round_=1), candidate(1, 1, 1)]
    assert ranked(candidates, BEST)[0].draw.round == 0


def test_ranked_when_a_candidate_was_not_finished_then_it_can_not_win() -> None:
    late = Candidate(Draw(0, 0, 0, 0.0), BranchStatus.CANCELLED)
    assert [c.draw.branch for c in ranked([late, candidate(1, 0, 2)], BEST)] == [1]
    assert chosen([late], BEST, None) is None


@pytest.mark.parametrize(("passed", "winner"), [(2, 9), (1, 0)])
def test_chosen_when_candidates_were_merged_then_the_merge_has_to_be_no_worse(
    passed: int, winner: int
) -> None:
    merged = candidate(9, passed, 2 - passed, round_=1, change=999)
    best = chosen([candidate(0, 2, 0), merged], CollapseStrategy.COMBINED, merged)
    assert best is not None
    assert best.draw.branch == winner
