"""Coding agents complete a loop of tools: only address, key and model name are changed (F41, F42).

The upstream's script decides every command: it reads one file and writes another.
"""

import json
from typing import Any

import pytest

from tests.e2e.real_agents.conftest import INSTALLED, MODEL, AgentRun
from tests.support.scripted_upstream import COPY, NOTE

pytestmark = pytest.mark.real_agents

PROMPT = f"Copy the word in {NOTE} to {COPY}."


def test_claude_code_when_it_edits_files_then_the_loop_is_complete(agent: AgentRun) -> None:
    program = INSTALLED / "@anthropic-ai" / "claude-code-linux-x64" / "claude"
    said = agent.run(
        program, "--print", PROMPT, "--allowedTools", "Read,Write",
        ANTHROPIC_BASE_URL=agent.server.url,
        ANTHROPIC_API_KEY=agent.server.key,
        ANTHROPIC_MODEL=MODEL,
        ANTHROPIC_DEFAULT_HAIKU_MODEL=MODEL,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )  # fmt: skip
    assert f"Copied {agent.word}" in said
    agent.require_copy()


def test_codex_when_it_edits_files_then_the_loop_is_complete(agent: AgentRun) -> None:
    said = agent.run(
        INSTALLED / ".bin" / "codex", "exec", "--skip-git-repo-check",
        "--sandbox", "danger-full-access", "--model", MODEL,
        "-c", f"openai_base_url={agent.server.url}/v1", "-c", "analytics.enabled=false", PROMPT,
        CODEX_API_KEY=agent.server.key,
    )  # fmt: skip
    assert f"Copied {agent.word}" in said
    agent.require_copy()
    # It tries a WebSocket first, and takes the answer for an answer.
    assert agent.server.log.read_text().count("WEBSOCKET unmatched 426 ") == 1


def test_opencode_when_it_edits_files_then_the_loop_is_complete(agent: AgentRun) -> None:
    options = {"baseURL": f"{agent.server.url}/v1", "apiKey": agent.server.key}
    provider: dict[str, Any] = {
        "npm": "@ai-sdk/openai-compatible",
        "options": options,
        "models": {MODEL: {}},
    }
    config: dict[str, Any] = {
        "provider": {"own": provider},
        "autoupdate": False,
        "share": "disabled",
    }
    said = agent.run(
        INSTALLED / "opencode-linux-x64" / "bin" / "opencode", "run", "--model", f"own/{MODEL}",
        PROMPT,
        OPENCODE_CONFIG_CONTENT=json.dumps(config),
        OPENCODE_DISABLE_MODELS_FETCH="1",
    )  # fmt: skip
    assert f"Copied {agent.word}" in said
    agent.require_copy()
