"""Images, documents and other parts that are no text: in history, results and questions (F44)."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from appliance.domain.messages import MediaPart, Message, MessageRole
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.supervision.validation import validate_completion
from tests.api.upstream_application import (
    CHAT,
    GEMINI,
    MESSAGES,
    VLLM_CHAT,
    UpstreamApi,
    open_upstream_api,
    openai_answer,
)
from tests.support.fake_upstream import as_json, completion_request

PNG, PDF = "iVBORw0KGgo=", "JVBERi0xLjQ="
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
DOCUMENT = {
    "type": "document",
    "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
}
SEEN = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
OMITTED = "[image omitted: this model reads text only]"
USE: Any = {"type": "tool_use", "id": "c1", "name": "look", "input": {}}


def result(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c1", "content": list(blocks)}


def session(*blocks: dict[str, Any]) -> dict[str, Any]:
    """A tool has returned these blocks, and the user goes on."""
    messages: list[Any] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [result(*blocks), {"type": "text", "text": "and?"}]},
    ]
    return {"messages": messages, "max_tokens": 9}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[UpstreamApi, None]:
    async with open_upstream_api(tmp_path) as api:
        yield api


async def test_tool_result_when_it_holds_an_image_then_a_model_that_sees_gets_it(
    api: UpstreamApi,
) -> None:
    body = session({"type": "text", "text": "a"}, IMAGE, DOCUMENT)
    for provider in ("openai", "anthropic", "google"):
        told = await api.post("/v1/messages", body | {"model": f"{provider}/m"})
        assert told.status_code == 200, told.text
    _, _, tool, shown, question = api.sent(CHAT)["messages"]
    assert tool["content"].split("\n") == [
        "a", "[image: in the next message]", "[document: in the next message]",
    ]  # fmt: skip
    file = {"filename": "document", "file_data": f"data:application/pdf;base64,{PDF}"}
    assert shown == {"role": "user", "content": [SEEN, {"type": "file", "file": file}]}
    assert question == {"role": "user", "content": "and?"}
    blocks = api.sent(MESSAGES)["messages"][2]["content"]
    assert blocks[0]["content"] == [{"type": "text", "text": "a"}, IMAGE, DOCUMENT]
    parts = api.sent(GEMINI)["contents"][2]["parts"]
    assert parts[1:3] == [
        {"inlineData": {"mimeType": "image/png", "data": PNG}},
        {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
    ]


async def test_tool_result_when_a_part_is_unknown_then_a_placeholder_stands_for_it(
    api: UpstreamApi,
) -> None:
    body = session({"type": "of_next_year", "title": "x"})
    for provider in ("openai", "anthropic", "google", "llama_cpp"):
        model = "own" if provider == "llama_cpp" else "m"
        told = await api.post("/v1/messages", body | {"model": f"{provider}/{model}"})
        assert told.status_code == 200, told.text
    omitted = "[of_next_year omitted: this model reads text only]"
    assert api.sent(CHAT)["messages"][2]["content"] == omitted
    (block,) = api.sent(MESSAGES)["messages"][2]["content"][0]["content"]
    assert block == {"type": "text", "text": omitted}


async def test_history_when_a_model_turns_out_to_read_text_only_then_placeholders_are_sent(
    api: UpstreamApi,
) -> None:
    refused = as_json({"error": {"message": "m is not a multimodal model"}}, 400)
    api.upstream.on(VLLM_CHAT, refused, openai_answer())
    for _ in range(2):
        told = await api.post("/v1/messages", session(IMAGE) | {"model": "vllm/m"})
        assert told.status_code == 200, told.text
    first, *others = [body["messages"] for body in api.upstream.bodies(VLLM_CHAT)]
    assert first[3]["content"] == [SEEN]
    assert [each[2]["content"] for each in others] == [OMITTED, OMITTED]
    assert [len(each) for each in others] == [4, 4]


async def test_question_when_it_holds_an_image_for_a_text_model_then_it_is_refused(
    api: UpstreamApi,
) -> None:
    refused = as_json({"error": {"message": "m is not a multimodal model"}}, 400)
    api.upstream.on(VLLM_CHAT, refused)
    content = [{"type": "text", "text": "what?"}, SEEN]
    body = {"model": "vllm/m", "messages": [{"role": "user", "content": content}]}
    told = await api.post("/v1/chat/completions", body)
    assert told.status_code == 400
    assert "multimodal" in told.json()["error"]["message"]
    assert api.sent(VLLM_CHAT)["messages"] == body["messages"]


RESPONSES_INPUT = [
    {"role": "user", "content": [{"type": "input_text", "text": "look"}]},
    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1",
     "output": [{"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}]},
]  # fmt: skip


async def test_output_when_it_holds_an_image_in_responses_then_it_is_passed_on(
    api: UpstreamApi,
) -> None:
    told = await api.post("/v1/responses", {"model": "openai/m", "input": RESPONSES_INPUT})
    assert told.status_code == 200, told.text
    assert api.sent(CHAT)["messages"][3] == {"role": "user", "content": [SEEN]}


async def test_parts_when_given_to_chat_then_each_provider_gets_its_form(api: UpstreamApi) -> None:
    url = "https://x.example/a.png"
    content = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"messages": [{"role": "user", "content": content}]}
    for provider in ("openai", "anthropic", "google"):
        told = await api.post("/v1/chat/completions", body | {"model": f"{provider}/m"})
        assert told.status_code == 200, told.text
    assert api.sent(CHAT)["messages"][0]["content"] == content
    assert api.sent(MESSAGES)["messages"][0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image", "source": {"type": "url", "url": url}},
    ]
    assert api.sent(GEMINI)["contents"][0]["parts"] == [
        {"text": "a"},
        {"fileData": {"fileUri": url}},
    ]


def test_local_model_when_an_image_is_in_the_history_then_it_reads_a_placeholder() -> None:
    image = MediaPart("image", "image/png", PNG)
    user = Message(MessageRole.USER, OMITTED, parts=(image,))
    tool = Message(MessageRole.TOOL, OMITTED, tool_call_id="c1", parts=(image,))
    question = Message(MessageRole.USER, "and?")
    request = completion_request()
    for messages in ((user, question), (user, tool), (tool, question)):
        checked = validate_completion(replace(request, messages=messages))
        assert all(message.parts == () for message in checked.messages)
        assert OMITTED in [message.content for message in checked.messages]
    with pytest.raises(InvalidInput, match=r"messages\[1\].content\[0\]"):
        validate_completion(replace(request, messages=(question, user)))
