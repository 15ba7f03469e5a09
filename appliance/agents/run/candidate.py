"""A candidate: how it was drawn, what came of it, how it fared."""

from msgspec import Struct

from appliance.agents.code.solution import Solution
from appliance.agents.run.agent_journal import Generated
from appliance.agents.run.plan import Draw
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import BranchReport, BranchStatus, Verification


class Candidate(Struct, frozen=True):
    """`problem` says why there is no solution where the status is not COMPLETED."""

    draw: Draw
    status: BranchStatus
    generated: Generated | None = None
    solution: Solution | None = None
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def key(self) -> tuple[int, int]:
        return (self.draw.round, self.draw.branch)

    @property
    def ok(self) -> bool:
        return self.verdict is not None and self.verdict.verification.ok

    @property
    def score(self) -> float | None:
        return self.verdict.verification.score if self.verdict else None

    def report(self) -> BranchReport:
        return BranchReport(
            index=self.draw.branch,
            round=self.draw.round,
            seed=self.draw.seed,
            temperature=self.draw.temperature,
            status=self.status,
            verification=self.verdict.verification if self.verdict else Verification(),
            usage=self.generated.usage if self.generated else TokenUsage(),
            problem=self.problem,
        )


def unfinished(draw: Draw, status: BranchStatus, problem: str) -> Candidate:
    return Candidate(draw, status, problem=problem)
