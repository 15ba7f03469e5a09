"""Answers of every dialect against the schemas of Vercel's AI SDK, whole and streamed (F43)."""

from pathlib import Path

import pytest

from tests.e2e.real_agents.conftest import INSTALLED, MODEL, NODE, AgentRun

pytestmark = pytest.mark.real_agents

SCRIPT = Path(__file__).with_name("check_answers.mjs")
PROVIDERS = ("chat", "compatible", "completion", "responses", "messages")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_answers_when_read_by_the_ai_sdk_then_they_fit_its_schemas(
    provider: str, agent: AgentRun
) -> None:
    # A module finds its packages from the folder where it lies.
    script = INSTALLED.parent / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    said = agent.run(NODE, script, provider, agent.server.url, agent.server.key, MODEL)
    assert said.strip() == "ok"
    assert agent.refusals() == []
