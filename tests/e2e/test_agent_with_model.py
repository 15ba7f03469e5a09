"""The agent with the real engine, the real starter model and the real sandbox."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings, SandboxSettings
from appliance.domain.tasks import (
    CollapseStrategy,
    ExecuteEvent,
    SourceFile,
    TaskRequest,
    TaskType,
    VerificationLevel,
)
from appliance.inference import Gateway
from appliance.sandbox.runner import SandboxRunner
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.agent_fakes import MemoryContext
from tests.support.llama_provider import provider_for
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = '''def add(a: int, b: int) -> int:
    """Return the sum of a and b.
    >>> add(1, 2)
    3
    """
'''


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agent(starter_model: Path, sandbox_python: Path) -> AsyncIterator[CodingAgent]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "run").mkdir()
        provider, _ = provider_for(folder, {"starter": starter_model}, max_sequences=4)

        async def default() -> str | None:
            return "starter"

        gateway = Gateway({provider.name: provider}, default)
        backend = Bubblewrap(plugin_context(sandbox_python, folder / "run"))
        sandbox = SandboxRunner({"bubblewrap": backend}, SandboxSettings(wall_s=60.0))
        await sandbox.start()
        status = sandbox.status
        if status.available:
            yield CodingAgent(gateway, sandbox, AgentSettings(max_output_tokens=160))
        await sandbox.close()
        await gateway.close()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}")


async def test_run_when_a_function_is_declared_then_the_model_writes_it_and_it_is_verified(
    agent: CodingAgent,
) -> None:
    context = MemoryContext(TaskRequest(prompt=PROMPT, branches=3, seed=1))
    result = await agent.run(context)
    assert result.verification.level is VerificationLevel.EXAMPLES
    assert result.verification.ok
    assert result.code is not None
    assert "def add" in result.code
    assert len(result.branches) == len(context.event_data(ExecuteEvent.CANDIDATE)) == 3
    assert result.usage.prompt_tokens == sum(b.usage.prompt_tokens for b in result.branches)
    assert result.generation_s > 0


async def test_run_when_tests_are_sent_then_the_first_that_passes_is_enough(
    agent: CodingAgent,
) -> None:
    tests = (
        SourceFile(
            "test_add.py", "from adding import add\n\ndef test_add():\n    assert add(1, 2) == 3\n"
        ),
    )
    request = TaskRequest(
        prompt=PROMPT, tests=tests, branches=3, seed=1, strategy=CollapseStrategy.FIRST_SUCCESS
    )
    result = await agent.run(MemoryContext(request))
    assert result.verification.level is VerificationLevel.CALLER_TESTS
    assert result.verification.ok
    assert [file.path for file in result.files] == ["adding.py"]


async def test_run_when_a_review_is_wanted_then_text_is_told_while_it_is_written(
    agent: CodingAgent,
) -> None:
    files = (SourceFile("calc.py", "def add(a, b):\n    return a - b\n"),)
    request = TaskRequest(
        prompt="What is wrong here?", task_type=TaskType.CODE_REVIEW, files=files, max_tokens=60
    )
    context = MemoryContext(request)
    result = await agent.run(context)
    assert result.text
    assert (
        "".join(d["content"] for d in context.event_data(ExecuteEvent.TEXT)).strip() == result.text
    )
    assert result.verification.score is None
