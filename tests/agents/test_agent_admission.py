"""What a task needs before it starts: a sandbox, space in the context, a model, branches."""

import pytest

from appliance.config.settings import AgentSettings
from appliance.domain.tasks import (
    ExecuteEvent,
    TaskType,
    VerificationLevel,
)
from appliance.errors import (
    ContextLengthExceeded,
    SandboxUnavailable,
    UnknownModel,
)
from tests.support.addition_task import GOOD, make_request
from tests.support.agent_fakes import (
    MemoryContext,
    ScriptedProvider,
    UnconfinedRunner,
    answers_in_turn,
    run_agent,
)


async def test_run_when_the_sandbox_is_missing_then_code_tasks_fail_before_generating() -> None:
    provider = ScriptedProvider(answers_in_turn(GOOD))
    with pytest.raises(SandboxUnavailable, match="user namespaces are off"):
        await run_agent(
            provider,
            MemoryContext(make_request()),
            runner=UnconfinedRunner(problem="user namespaces are off"),
        )
    assert provider.requests == []


@pytest.mark.parametrize(
    "task_type",
    [TaskType.CODE_REVIEW, TaskType.DOCUMENTATION, TaskType.CODE_ANALYSIS, TaskType.CUSTOM],
)
async def test_run_when_the_sandbox_is_missing_then_text_tasks_work(task_type: TaskType) -> None:
    provider = ScriptedProvider(answers_in_turn("It is fine. " * 30))
    context = MemoryContext(make_request("Look at this", task_type=task_type))
    result = await run_agent(provider, context, runner=UnconfinedRunner(problem="none here"))
    assert result.text == ("It is fine. " * 30).strip()
    assert result.verification.level is VerificationLevel.NONE
    assert result.verification.score is None
    assert len(provider.requests) == 1
    expected_text = "".join(d["content"] for d in context.event_data(ExecuteEvent.TEXT))
    assert expected_text.strip() == result.text


async def test_run_when_no_branch_number_is_given_then_the_speed_decides_and_is_reported() -> None:
    for speed, branches in ((1000.0, 8), (2.0, 1), (None, 4)):
        context = MemoryContext(make_request(branches=None))
        await run_agent(ScriptedProvider(answers_in_turn(GOOD), speed=speed), context)
        plan = context.event_data(ExecuteEvent.PLANNED)[0]
        assert plan["branches"] == branches
        assert plan["branches_reason"]


async def test_run_when_too_many_branches_are_asked_for_then_the_cap_is_reported() -> None:
    context = MemoryContext(make_request(branches=50))
    await run_agent(
        ScriptedProvider(answers_in_turn(GOOD)), context, settings=AgentSettings(max_branches=2)
    )
    plan = context.event_data(ExecuteEvent.PLANNED)[0]
    assert (plan["branches"], plan["branches_reason"]) == (2, "50 requested, at most 2 allowed")


async def test_run_when_the_prompt_does_not_fit_then_it_is_refused_with_the_numbers() -> None:
    provider = ScriptedProvider(answers_in_turn(GOOD), context_tokens=100)
    with pytest.raises(ContextLengthExceeded) as caught:
        await run_agent(provider, MemoryContext(make_request("word " * 200)))
    assert caught.value.details["context_tokens"] == 100
    assert caught.value.details["prompt_tokens"] > 200
    assert provider.requests == []


async def test_run_when_the_requested_length_exceeds_the_room_then_it_is_capped() -> None:
    provider = ScriptedProvider(answers_in_turn(GOOD), context_tokens=300)
    for given in (32_000, None):
        await run_agent(provider, MemoryContext(make_request(max_tokens=given)))
        sent = provider.requests[-1].max_tokens
        assert sent is not None
        assert 0 < sent < 300


async def test_run_when_the_model_is_unknown_then_the_task_fails_with_what_exists() -> None:
    with pytest.raises(UnknownModel, match="scripted/model"):
        await run_agent(
            ScriptedProvider(answers_in_turn(GOOD)), MemoryContext(make_request(model="gpt-9"))
        )
