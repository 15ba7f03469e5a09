"""What was decided about a task before the first token; fixed for all its attempts."""

import hashlib
from enum import StrEnum

from msgspec import Struct

from appliance.domain.tasks import CollapseStrategy, Persona, VerificationLevel


class Shape(StrEnum):
    """What the answer is: code to run, tests to run, or text to read."""

    CODE = "code"
    TESTS = "tests"
    TEXT = "text"


class Plan(Struct, frozen=True):
    """The data of the PLANNED event.

    `branches_reason` says why there are that many candidates; `level` is the strongest
    verification that can be reached; every candidate's seed comes from `seed`;
    `context_tokens` is the model's room, None where its provider does not say.
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


class Draw(Struct, frozen=True):
    """How one candidate is drawn: the same plan, round and branch give the same draw."""

    round: int
    branch: int
    seed: int
    temperature: float


def draw(plan: Plan, round_: int, branch: int) -> Draw:
    """The first branch of several is greedy, the model's single best guess; the others differ.

    A single candidate of code is greedy as well, unless the caller gave a temperature.
    """
    text = f"{plan.seed}:{round_}:{branch}"
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
    asked = plan.temperature
    single_choice = plan.branches == 1 and (asked is not None or plan.shape is Shape.TEXT)
    greedy = branch == 0 and not single_choice
    return Draw(
        round=round_,
        branch=branch,
        seed=plan.seed if single_choice and round_ == 0 else seed,
        temperature=0.0 if greedy else (plan.default_temperature if asked is None else asked),
    )
