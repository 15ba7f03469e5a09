"""One task being done: what its rounds share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.agents.planner import Approach
from appliance.agents.run import context_budget
from appliance.agents.run.agent_journal import Context, Journal
from appliance.agents.run.plan import Plan, Shape
from appliance.agents.run.writer import Writer
from appliance.agents.verification.sandbox_harness import Confined
from appliance.domain.messages import Message
from appliance.domain.tasks import VerificationLevel
from appliance.inference import Route

# Kept of the remaining time for verifying what was generated.
_VERIFYING_SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What there is before the plan. `messages` are those of the first round."""

    context: Context
    journal: Journal
    way: Approach
    route: Route
    writer: Writer
    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class Work(Opening):
    """`warnings` grows with what went less than well."""

    plan: Plan
    confined: Confined
    warnings: list[str] = field(default_factory=list[str])

    @property
    def compares(self) -> bool:
        """Whether the verdicts come from comparing the candidates with one another."""
        tests = self.plan.level is VerificationLevel.GENERATED_TESTS
        return tests and self.plan.shape is Shape.CODE

    def generation_seconds(self) -> float:
        """How long candidates may be written now, so that time is left to verify them."""
        return self.context.remaining_s() * (1 - _VERIFYING_SHARE)

    async def room_after(self, messages: Sequence[Message]) -> int | None:
        """Tokens left for an answer, at most the plan's; None where too few are."""
        room = self.plan.context_tokens
        if room is None:
            return self.plan.max_tokens
        left = room - await self.writer.count_tokens(messages)
        fewest = min(self.plan.max_tokens, context_budget.SMALLEST_ANSWER)
        return min(left, self.plan.max_tokens) if left >= fewest else None
