"""A task handler with scripted steps and outcome."""

import asyncio
from typing import Any

from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import (
    BranchReport,
    BranchStatus,
    EventKind,
    ExecuteEvent,
    ModelUsage,
    SourceFile,
    TaskResult,
    Verification,
    VerificationLevel,
)
from appliance.errors import ApplianceError
from appliance.scheduler import TaskContext

PASSED = Verification(
    level=VerificationLevel.CALLER_TESTS,
    passed=3,
    failed=0,
    score=1.0,
    summary="3 of 3 tests passed",
    output="3 passed",
    isolation="namespaces",
    wall_s=0.2,
)
FAILED = Verification(
    level=VerificationLevel.CALLER_TESTS, passed=1, failed=2, score=1 / 3, summary="1 of 3 passed"
)
RESULT = TaskResult(
    text="Here it is:\n\n```python\ndef add(a, b):\n    return a + b\n```",
    code="def add(a, b):\n    return a + b\n",
    explanation="Here it is:",
    language="python",
    files=(SourceFile("src/add.py", "def add(a, b):\n    return a + b\n"),),
    tests="def test_add(): ...",
    verification=PASSED,
    branches=(
        BranchReport(0, 0, 11, 0.0, BranchStatus.COMPLETED, FAILED, TokenUsage(40, 20, 0)),
        BranchReport(1, 0, 12, 0.6, BranchStatus.COMPLETED, PASSED, TokenUsage(40, 30, 40)),
        BranchReport(2, 0, 13, 0.6, BranchStatus.CANCELLED, Verification(), TokenUsage(40, 7, 40)),
    ),
    chosen=1,
    provider="llama_cpp",
    model="starter",
    usage=TokenUsage(120, 57, 80),
    usage_by_model=(
        ModelUsage("llama_cpp", "starter", TokenUsage(80, 37, 80)),
        ModelUsage("openai", "gpt", TokenUsage(40, 20, 0), cost=0.25),
    ),
    generation_s=0.5,
    warnings=("the prompt names no language; Python was chosen",),
)
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    (ExecuteEvent.PLANNED, {"persona": "developer", "branches": 3}),
    (EventKind.PROGRESS, {"message": "Generating", "step": "generate", "percentage": 10}),
    (ExecuteEvent.CANDIDATE, {"index": 1, "seed": 12, "text": "def add", "tokens": 30}),
    (ExecuteEvent.VERDICT, {"index": 1, "passed": 3, "failed": 0, "score": 1.0}),
    (ExecuteEvent.CODE, {"content": "def add(a, b):\n    return a + b\n"}),
)


class Script:
    """Emits `steps`, then ends with `outcome`; `hold()` makes it wait for `release()` first."""

    def __init__(self) -> None:
        self.steps = STEPS
        self.outcome: TaskResult | ApplianceError | Exception = RESULT
        self.seen: list[TaskContext] = []
        self._go = asyncio.Event()
        self._go.set()

    def hold(self) -> None:
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    async def __call__(self, context: TaskContext) -> TaskResult:
        self.seen.append(context)
        for kind, data in self.steps:
            await context.emit(kind, data)
        await self._go.wait()
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome
