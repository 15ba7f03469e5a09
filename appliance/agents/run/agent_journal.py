"""A task's journal as the agent reads and writes it: what is there is not done again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from appliance.agents.run.plan import Draw, Plan
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import FinishReason, TokenUsage
from appliance.domain.tasks import EventKind, Task, TaskEvent, Verification


class Context(Protocol):
    """What is used of appliance.scheduler.TaskContext."""

    @property
    def task(self) -> Task: ...

    @property
    def history(self) -> Sequence[TaskEvent]: ...

    async def emit(self, kind: EventKind, data: Mapping[str, Any], /) -> TaskEvent: ...

    def remaining_s(self) -> float: ...


class Generated(Struct, frozen=True):
    """The data of a CANDIDATE event: one finished generation, with its whole text."""

    branch: int
    round: int
    text: str
    seed: int
    temperature: float
    usage: TokenUsage
    seconds: float
    finish_reason: FinishReason

    @property
    def key(self) -> tuple[int, int]:
        return (self.round, self.branch)


class Inputs(Struct, frozen=True):
    """Calls that the model wrote to compare candidates by, and what asking for them used."""

    calls: tuple[str, ...] = ()
    usage: TokenUsage = TokenUsage()


class Journal:
    """Reads what earlier attempts did, and appends what this one does."""

    def __init__(self, context: Context) -> None:
        self._context = context
        events = list(context.history)
        self.plan = _last(Plan, events, EventKind.PLANNED)
        candidates = [msgspec.convert(e.data, Generated) for e in _of(events, EventKind.CANDIDATE)]
        self.candidates = {candidate.key: candidate for candidate in candidates}
        self.verdicts = dict(_verdict(e.data) for e in _of(events, EventKind.VERDICT))
        self.text = "".join(str(e.data.get("content", "")) for e in _of(events, EventKind.TEXT))
        progress = [e.data for e in _of(events, EventKind.PROGRESS)]
        found = [msgspec.convert(d["inputs"], Inputs) for d in progress if "inputs" in d]
        self.inputs = found[-1] if found else None
        self._code_told = any(_of(events, EventKind.CODE))

    async def planned(self, plan: Plan) -> None:
        await self._context.emit(EventKind.PLANNED, msgspec.to_builtins(plan))
        self.plan = plan

    async def progress(self, message: str, step: str, percentage: int) -> None:
        """`percentage` is how far the task is by its steps, 0 to 100; no estimate of time."""
        data = {"message": message, "step": step, "percentage": percentage}
        await self._context.emit(EventKind.PROGRESS, data)

    async def compared_on(self, inputs: Inputs) -> None:
        """The calls that the candidates are compared on; the same at each attempt."""
        message = f"comparing the candidates on {len(inputs.calls)} calls"
        data = {"message": message, "step": "compare", "percentage": 80}
        await self._context.emit(
            EventKind.PROGRESS, {**data, "inputs": msgspec.to_builtins(inputs)}
        )
        self.inputs = inputs

    async def candidate(self, generated: Generated) -> None:
        await self._context.emit(EventKind.CANDIDATE, msgspec.to_builtins(generated))
        self.candidates[generated.key] = generated

    async def verdict(self, draw: Draw, verdict: Verdict) -> None:
        data = {"branch": draw.branch, "round": draw.round, "behaviour": verdict.behaviour}
        data |= msgspec.to_builtins(verdict.verification)
        await self._context.emit(EventKind.VERDICT, data)
        self.verdicts[(draw.round, draw.branch)] = verdict

    async def said(self, content: str) -> None:
        await self._context.emit(EventKind.TEXT, {"content": content})

    async def chosen(self, code: str) -> None:
        """The code of the answer; told once, also after a crash right behind it."""
        if not self._code_told:
            await self._context.emit(EventKind.CODE, {"content": code})
            self._code_told = True


def _of(events: Iterable[TaskEvent], kind: EventKind) -> list[TaskEvent]:
    return [event for event in events if event.kind is kind]


def _last(type_: type[Plan], events: Iterable[TaskEvent], kind: EventKind) -> Plan | None:
    found = _of(events, kind)
    return msgspec.convert(found[-1].data, type_) if found else None


def _verdict(data: Mapping[str, Any]) -> tuple[tuple[int, int], Verdict]:
    verification = msgspec.convert(dict(data), Verification)
    key = (int(data["round"]), int(data["branch"]))
    return key, Verdict(verification, str(data.get("behaviour", "")))
