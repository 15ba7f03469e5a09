"""A candidate: its sampling parameters, its generation, its solution and its verdict."""

from msgspec import Struct

from appliance.agents.code.solution import Solution
from appliance.agents.run.agent_journal import Generation
from appliance.agents.run.execution_plan import CandidateSampling
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import BranchReport, BranchStatus, Verification


class Candidate(Struct, frozen=True):
    """`problem` says why there is no solution where the status is not COMPLETED."""

    sampling: CandidateSampling
    status: BranchStatus
    generation: Generation | None = None
    solution: Solution | None = None
    verdict: Verdict | None = None
    problem: str = ""

    @property
    def key(self) -> tuple[int, int]:
        return self.sampling.key

    @property
    def ok(self) -> bool:
        return self.verdict is not None and self.verdict.verification.ok

    @property
    def score(self) -> float | None:
        return self.verdict.verification.score if self.verdict else None

    def report(self) -> BranchReport:
        return BranchReport(
            index=self.sampling.branch,
            round=self.sampling.round,
            seed=self.sampling.seed,
            temperature=self.sampling.temperature,
            status=self.status,
            verification=self.verdict.verification if self.verdict else Verification(),
            usage=self.generation.usage if self.generation else TokenUsage(),
            problem=self.problem,
        )
