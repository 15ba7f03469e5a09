"""What a task used, by the model that used it, and its cost (F74)."""

import pytest

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings, PriceSettings
from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import ExecuteEvent, TaskRequest, TaskResult
from appliance.inference import Gateway
from tests.support.addition_task import GOOD, make_request
from tests.support.agent_fakes import MemoryContext, UnconfinedRunner
from tests.support.gateway_parts import PERMANENT, Scripted, fail_then_answer, gateway_over, route


def _gateway() -> Gateway:
    """The route "smart": a local model that fails once, then a remote one with a price."""
    return gateway_over(
        Scripted(fail_then_answer(1, PERMANENT, GOOD), name="near"),
        Scripted(GOOD, name="far", local=False),
        routes=route("near/model", "far/model"),
        prices={"far": PriceSettings(input=10.0, output=20.0)},
    )


async def _run(context: MemoryContext) -> TaskResult:
    return await CodingAgent(_gateway(), UnconfinedRunner(), AgentSettings()).run(context)


async def test_usage_when_two_providers_answered_then_each_has_its_own_tokens_and_cost() -> None:
    context = MemoryContext(make_request(model="smart", branches=3))
    result = await _run(context)
    used = {each.provider: each for each in result.usage_by_model}
    near, far = used["near"], used["far"]
    assert (near.model, near.cost) == ("model", None)
    tokens = far.usage
    cost = (tokens.prompt_tokens * 10 + tokens.completion_tokens * 20) / 1e6
    assert far.cost == pytest.approx(cost)
    assert near.usage.total_tokens == 2 * tokens.total_tokens
    assert near.usage + tokens == result.usage
    providers = [event["provider"] for event in context.event_data(ExecuteEvent.CANDIDATE)]
    assert sorted(providers) == ["far", "near", "near"]


async def test_usage_when_the_fallback_wrote_the_answer_then_it_is_the_provider() -> None:
    result = await _run(MemoryContext(make_request(model="smart", branches=1)))
    assert (result.provider, result.model) == ("far", "model")
    assert [each.provider for each in result.usage_by_model] == ["far"]


async def test_usage_when_a_journal_names_no_provider_then_it_is_that_of_the_plan() -> None:
    first = MemoryContext(make_request(model="smart", branches=1))
    await _run(first)
    for event in first.events:
        if event.kind == ExecuteEvent.CANDIDATE:
            del event.data["provider"], event.data["model"], event.data["cost"]
    result = await _run(MemoryContext(first.task.request_as(TaskRequest), first.events))
    assert [(each.provider, each.cost) for each in result.usage_by_model] == [("near", None)]
    assert result.usage != TokenUsage()
