"""What the steps of one task share, before and after its execution plan is made."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msgspec import Struct

from appliance.agents.code.solution import AnswerTarget
from appliance.agents.run import context_budget
from appliance.agents.run.agent_journal import AgentJournal
from appliance.agents.run.execution_plan import ExecutionPlan, Shape
from appliance.agents.run.writer import Writer
from appliance.agents.verification.checks import Checks
from appliance.agents.verification.sandbox_harness import SandboxHarness
from appliance.domain.messages import Message
from appliance.domain.tasks import VerificationLevel
from appliance.inference import Route
from appliance.scheduler.context import TaskContext

# Share of the remaining time that is kept for verification.
_VERIFICATION_SHARE = 0.3


class AnswerSpec(Struct, frozen=True):
    """What follows from the request and this machine alone, and so is the same at each attempt."""

    shape: Shape
    target: AnswerTarget
    checks: Checks
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """Everything that is known before the execution plan. `messages` are the first round's."""

    task_context: TaskContext
    journal: AgentJournal
    spec: AnswerSpec
    route: Route
    writer: Writer
    messages: Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class RunContext(RunSetup):
    """A planned task. Its steps append to `warnings`."""

    plan: ExecutionPlan
    harness: SandboxHarness
    warnings: list[str] = field(default_factory=list[str])

    @property
    def uses_consensus(self) -> bool:
        """Whether verdicts come from comparing the candidates with one another."""
        tests = self.plan.level is VerificationLevel.GENERATED_TESTS
        return tests and self.plan.shape is Shape.CODE

    def generation_budget_s(self) -> float:
        """Seconds that candidates may be written for, so that time is left to verify them."""
        return self.task_context.remaining_s() * (1 - _VERIFICATION_SHARE)

    async def answer_tokens_after(self, messages: Sequence[Message]) -> int | None:
        """Tokens left for an answer to these messages, at most the plan's; None if too few."""
        context_tokens = self.plan.context_tokens
        if context_tokens is None:
            return self.plan.max_tokens
        available = context_tokens - await self.writer.count_tokens(messages)
        needed = min(self.plan.max_tokens, context_budget.MIN_ANSWER_TOKENS)
        return min(available, self.plan.max_tokens) if available >= needed else None
