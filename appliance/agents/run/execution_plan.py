"""The execution plan: what is decided before the first token, fixed for all attempts at a task."""

import hashlib
from enum import StrEnum

from msgspec import Struct

from appliance.domain.tasks import CollapseStrategy, Persona, VerificationLevel


class Shape(StrEnum):
    """Form of the answer: code to run, tests to run, or text to read."""

    CODE = "code"
    TESTS = "tests"
    TEXT = "text"


class ExecutionPlan(Struct, frozen=True):
    """Data of the PLANNED event; field names are stored in the journal.

    `branches` is the number of candidates per round and `branches_reason` why; `level` is the
    strongest verification level that can be reached; each candidate's seed is derived from
    `seed`; `context_tokens` is the model's context length, None where the provider doesn't say.
    """

    persona: Persona
    shape: Shape
    language: str
    provider: str
    model: str
    branches: int
    branches_reason: str
    strategy: CollapseStrategy
    level: VerificationLevel
    seed: int
    temperature: float | None
    default_temperature: float
    max_tokens: int
    prompt_tokens: int
    context_tokens: int | None
    repair_rounds: int


class CandidateSampling(Struct, frozen=True):
    """Sampling parameters of one candidate, determined by the plan, the round and the branch."""

    round: int
    branch: int
    seed: int
    temperature: float

    @property
    def key(self) -> tuple[int, int]:
        return (self.round, self.branch)


def sample_candidate(plan: ExecutionPlan, round_: int, branch: int) -> CandidateSampling:
    """Seed and temperature of one candidate; the same arguments give the same result.

    The first of several branches is greedy (the model's single best guess), the others differ
    by their seeds. A single candidate of code is greedy as well, unless the caller set a
    temperature.
    """
    text = f"{plan.seed}:{round_}:{branch}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    requested = plan.temperature
    single_choice = plan.branches == 1 and (requested is not None or plan.shape is Shape.TEXT)
    greedy = branch == 0 and not single_choice
    sampled = plan.default_temperature if requested is None else requested
    return CandidateSampling(
        round=round_,
        branch=branch,
        seed=plan.seed if single_choice and round_ == 0 else seed,
        temperature=0.0 if greedy else sampled,
    )
