"""A planned task keeps its model only while the policy still allows it."""

import pytest

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings, PolicySettings
from appliance.domain.tasks import ExecuteEvent, TaskRequest
from appliance.errors import Forbidden
from tests.support.agent_fakes import KilledError, MemoryContext, UnconfinedRunner
from tests.support.gateway_parts import Scripted, gateway_over

REQUEST = TaskRequest(prompt="Write it in Python", branches=1, labels=("secret",))


async def test_run_when_the_planned_model_was_barred_since_then_forbidden() -> None:
    far = Scripted("```python\nx = 1\n```", name="far", local=False, models=("m",))
    near = Scripted("```python\nx = 2\n```")
    runner, settings = UnconfinedRunner(), AgentSettings()
    before = CodingAgent(gateway_over(far, near, default="far/m"), runner, settings)
    interrupted = MemoryContext(REQUEST, dies_at=2)
    with pytest.raises(KilledError):
        await before.run(interrupted)
    assert interrupted.event_data(ExecuteEvent.PLANNED)[0]["provider"] == "far"
    requests_before = len(far.requests)

    policy = PolicySettings(local_only_labels=("secret",))
    after = CodingAgent(gateway_over(far, near, default="far/m", policy=policy), runner, settings)
    with pytest.raises(Forbidden, match="'secret' never leaves this machine"):
        await after.run(MemoryContext(REQUEST, interrupted.events))
    assert (len(far.requests), near.requests) == (requests_before, [])
