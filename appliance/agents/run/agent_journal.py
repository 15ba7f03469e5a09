"""The task journal as the agent uses it: steps found in it are not done again."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from appliance.agents.run.execution_plan import CandidateSampling, ExecutionPlan
from appliance.agents.run.model_usage import ModelCall
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import FinishReason
from appliance.domain.tasks import EventKind, ExecuteEvent, TaskEvent, Verification
from appliance.scheduler.context import TaskContext


class Generation(ModelCall, frozen=True, kw_only=True):
    """Data of a CANDIDATE event: one finished generation with its whole text."""

    branch: int
    round: int
    text: str
    seed: int
    temperature: float
    seconds: float
    finish_reason: FinishReason

    @property
    def key(self) -> tuple[int, int]:
        return (self.round, self.branch)


class ComparisonCalls(ModelCall, frozen=True, kw_only=True):
    """Function calls that the model wrote to compare candidates by.

    The fields of ModelCall are those of the generation that was requested for them, if any.
    """

    calls: tuple[str, ...] = ()


class AgentJournal:
    """Reads what earlier attempts recorded, and records the steps of this one.

    `generations` and `verdicts` are keyed by (round, branch). `text` is the part of a text
    answer that was sent so far.
    """

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        events = list(context.history)
        plans = _select(events, ExecuteEvent.PLANNED)
        self.plan = msgspec.convert(plans[-1].data, ExecutionPlan) if plans else None
        generations = [
            msgspec.convert(event.data, Generation)
            for event in _select(events, ExecuteEvent.CANDIDATE)
        ]
        self.generations = {generation.key: generation for generation in generations}
        self.verdicts = dict(_decode_verdict(e.data) for e in _select(events, ExecuteEvent.VERDICT))
        self.text = "".join(
            str(e.data.get("content", "")) for e in _select(events, ExecuteEvent.TEXT)
        )
        calls = [
            msgspec.convert(event.data["inputs"], ComparisonCalls)
            for event in _select(events, EventKind.PROGRESS)
            if "inputs" in event.data
        ]
        self.comparison_calls = calls[-1] if calls else None
        self._code_recorded = any(_select(events, ExecuteEvent.CODE))

    async def record_plan(self, plan: ExecutionPlan) -> None:
        await self._context.emit(ExecuteEvent.PLANNED, msgspec.to_builtins(plan))
        self.plan = plan

    async def record_progress(self, message: str, step: str, percentage: int) -> None:
        """`percentage` counts steps, 0 to 100; it does not estimate time."""
        data = {"message": message, "step": step, "percentage": percentage}
        await self._context.emit(EventKind.PROGRESS, data)

    async def record_comparison_calls(self, calls: ComparisonCalls) -> None:
        """The calls that candidates are compared on, the same for every attempt."""
        message = f"comparing the candidates on {len(calls.calls)} calls"
        data = {"message": message, "step": "compare", "percentage": 80}
        await self._context.emit(EventKind.PROGRESS, {**data, "inputs": msgspec.to_builtins(calls)})
        self.comparison_calls = calls

    async def record_generation(self, generation: Generation) -> None:
        await self._context.emit(ExecuteEvent.CANDIDATE, msgspec.to_builtins(generation))
        self.generations[generation.key] = generation

    async def record_verdict(self, sampling: CandidateSampling, verdict: Verdict) -> None:
        data = {
            "branch": sampling.branch,
            "round": sampling.round,
            "behaviour": verdict.behavior,
        } | msgspec.to_builtins(verdict.verification)
        await self._context.emit(ExecuteEvent.VERDICT, data)
        self.verdicts[sampling.key] = verdict

    async def record_text(self, content: str) -> None:
        await self._context.emit(ExecuteEvent.TEXT, {"content": content})

    async def record_code(self, code: str) -> None:
        """The code of the answer; recorded once, even if the server crashes right afterwards."""
        if not self._code_recorded:
            await self._context.emit(ExecuteEvent.CODE, {"content": code})
            self._code_recorded = True


def _select(events: Iterable[TaskEvent], kind: str) -> list[TaskEvent]:
    return [event for event in events if event.kind == kind]


def _decode_verdict(data: Mapping[str, Any]) -> tuple[tuple[int, int], Verdict]:
    verification = msgspec.convert(dict(data), Verification)
    key = (int(data["round"]), int(data["branch"]))
    return key, Verdict(verification, str(data.get("behaviour", "")))
