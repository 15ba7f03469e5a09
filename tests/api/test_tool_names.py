"""Names of tools up to each dialect's limit, also for upstreams that take fewer (F12)."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from tests.api.upstream_application import (
    CHAT,
    GEMINI,
    MESSAGES,
    UpstreamApi,
    open_upstream_api,
    openai_answer,
)

LONG, OTHER = "a" * 120 + "_read_it", "a" * 120 + "_send_it"
SCHEMA: Any = {"type": "object", "properties": {}}
TOOLS = [{"name": name, "input_schema": SCHEMA} for name in (LONG, OTHER, "short")]
HISTORY: list[Any] = [
    {"role": "user", "content": "hi"},
    {"role": "assistant",
     "content": [{"type": "tool_use", "id": "c0", "name": LONG, "input": {}}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c0", "content": "x"}]},
]  # fmt: skip
BODY: Any = {"messages": HISTORY, "max_tokens": 9, "tools": TOOLS,
        "tool_choice": {"type": "tool", "name": LONG}}  # fmt: skip


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[UpstreamApi, None]:
    async with open_upstream_api(tmp_path) as api:
        yield api


async def test_names_when_an_upstream_takes_fewer_then_short_ones_are_sent_and_mapped_back(
    api: UpstreamApi,
) -> None:
    api.upstream.on(CHAT, openai_answer())
    await api.post("/v1/messages", BODY | {"model": "openai/m"})
    sent = api.sent(CHAT)
    names = [tool["function"]["name"] for tool in sent["tools"]]
    assert len(set(names)) == 3
    assert names[2] == "short"
    assert all(len(name) <= 64 for name in names)
    assert sent["tool_choice"]["function"]["name"] == names[0]
    assert sent["messages"][1]["tool_calls"][0]["function"]["name"] == names[0]
    call = {"index": 0, "id": "c1", "function": {"name": names[1], "arguments": "{}"}}
    api.upstream.on(CHAT, openai_answer("", "tool_calls", tool_calls=[call]))
    told = await api.post("/v1/messages", BODY | {"model": "openai/m"})
    assert [block["name"] for block in told.json()["content"]] == [OTHER]
    given = {"type": "function", "name": OTHER, "parameters": SCHEMA}
    told = await api.post("/v1/responses", {"model": "openai/m", "input": "hi", "tools": [given]})
    assert told.json()["output"][0]["name"] == OTHER


async def test_names_when_the_upstream_is_google_then_short_ones_are_sent(
    api: UpstreamApi,
) -> None:
    await api.post("/v1/messages", BODY | {"model": "google/m"})
    sent = api.sent(GEMINI)
    names = [each["name"] for each in sent["tools"][0]["functionDeclarations"]]
    assert all(len(name) <= 64 for name in names)
    assert sent["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == [names[0]]
    assert sent["contents"][2]["parts"][0]["functionResponse"]["name"] == names[0]


async def test_names_when_the_upstream_takes_as_many_then_they_are_unchanged(
    api: UpstreamApi,
) -> None:
    await api.post("/v1/messages", BODY | {"model": "anthropic/m"})
    assert [tool["name"] for tool in api.sent(MESSAGES)["tools"]] == [LONG, OTHER, "short"]


async def test_names_when_longer_than_the_dialect_takes_then_refused_by_place(
    api: UpstreamApi,
) -> None:
    tools = [{"name": "a" * 129, "input_schema": SCHEMA}]
    told = await api.post("/v1/messages", BODY | {"model": "openai/m", "tools": tools})
    assert told.status_code == 400
    assert "tools[0].name" in told.json()["error"]["message"]
