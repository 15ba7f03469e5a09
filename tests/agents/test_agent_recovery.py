"""A task that goes on after a crash: nothing in its journal is done again."""

import pytest

from appliance.agents.run.execution_plan import ExecutionPlan, Shape
from appliance.domain.messages import CompletionRequest
from appliance.domain.tasks import (
    EventKind,
    ExecuteEvent,
    TaskRequest,
    TaskType,
)
from tests.support.addition_task import BAD, GOOD, make_request
from tests.support.agent_fakes import (
    Answer,
    KilledError,
    MemoryContext,
    ScriptedProvider,
    UnconfinedRunner,
    answers_in_turn,
    run_agent,
    user_text,
)


async def test_run_when_a_process_died_at_any_step_then_nothing_journalled_is_done_again() -> None:
    def script(request: CompletionRequest) -> Answer:
        return GOOD if request.sampling.temperature else BAD

    whole = MemoryContext(make_request(seed=3))
    expected = await run_agent(ScriptedProvider(script), whole)
    for step in range(1, len(whole.events) + 1):
        first = MemoryContext(make_request(seed=3), dies_at=step)
        with pytest.raises((KilledError, ExceptionGroup)):
            await run_agent(ScriptedProvider(script), first)
        kept = len(first.event_data(ExecuteEvent.CANDIDATE))
        again, runner = ScriptedProvider(script), UnconfinedRunner()
        second = MemoryContext(make_request(seed=3), history=first.events)
        result = await run_agent(again, second, runner=runner)
        assert len(again.requests) == 3 - kept
        assert len(runner.requests) == 3 - len(first.event_data(ExecuteEvent.VERDICT))
        assert (
            len(second.event_data(ExecuteEvent.PLANNED))
            == len(second.event_data(ExecuteEvent.CODE))
            == 1
        )
        assert (
            len(second.event_data(ExecuteEvent.CANDIDATE))
            == len(second.event_data(ExecuteEvent.VERDICT))
            == 3
        )
        assert (result.code, result.chosen) == (expected.code, expected.chosen)
        assert [b.seed for b in result.branches] == [b.seed for b in expected.branches]


async def test_run_when_a_comparison_was_interrupted_then_it_ends_the_same() -> None:
    def script(request: CompletionRequest) -> Answer:
        if "different calls" in user_text(request):
            return "add(1, 2)\nadd(5, 6)"
        return GOOD if request.sampling.temperature else BAD

    whole = MemoryContext(make_request("Write a Python function add", seed=3))
    expected = await run_agent(ScriptedProvider(script), whole)
    judged = [e.seq for e in whole.events if e.kind == ExecuteEvent.VERDICT]
    for step in range(judged[0] - 1, judged[-1] + 1):
        first = MemoryContext(make_request("Write a Python function add", seed=3), dies_at=step)
        with pytest.raises(KilledError):
            await run_agent(ScriptedProvider(script), first)
        second = MemoryContext(first.task.request_as(TaskRequest), history=first.events)
        result = await run_agent(ScriptedProvider(script), second)
        assert result.code == expected.code
        assert result.verification.passed == expected.verification.passed
        assert len(second.event_data(ExecuteEvent.VERDICT)) == 3


async def test_run_when_a_text_was_interrupted_then_its_readers_see_it_once() -> None:
    request = make_request("Review this", task_type=TaskType.CODE_REVIEW, seed=3)
    expected_text = "It is fine, all of it."
    for before, again in (
        (expected_text[:9], expected_text),
        (expected_text[:9], "Something else."),
    ):
        first = MemoryContext(request)
        await first.emit(ExecuteEvent.TEXT, {"content": before})
        second = MemoryContext(request, history=first.events)
        await run_agent(ScriptedProvider(answers_in_turn(again)), second)
        text = "".join(d["content"] for d in second.event_data(ExecuteEvent.TEXT))
        restarted = [d for d in second.event_data(EventKind.PROGRESS) if d["step"] == "restart"]
        assert text == (expected_text if again == expected_text else before + again)
        assert bool(restarted) is (again != expected_text)


async def test_plan_when_journalled_then_it_reads_back_as_it_was() -> None:
    import msgspec

    context = MemoryContext(make_request())
    await run_agent(ScriptedProvider(answers_in_turn(GOOD)), context)
    plan = msgspec.convert(context.event_data(ExecuteEvent.PLANNED)[0], ExecutionPlan)
    assert plan.shape is Shape.CODE
    assert msgspec.to_builtins(plan) == context.event_data(ExecuteEvent.PLANNED)[0]
