"""Templates that insist on an order of roles, or read content as parts only, in every dialect."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.chat_templates import GEMMA, PARTS
from tests.support.server_process import command, running_server
from tests.support.tiny_gguf import write_tiny_gguf

_USER, _SYSTEM = {"role": "user", "content": "hello"}, {"role": "system", "content": "be brief"}
_ANSWER = {"role": "assistant", "content": "welcome"}
_CALL = {"type": "function", "id": "c1", "function": {"name": "now", "arguments": "{}"}}
_CHATS: dict[str, list[dict[str, Any]]] = {
    "two user turns": [_USER, _USER],
    "assistant first": [_ANSWER, _USER],
    "system in the middle": [_SYSTEM, _USER, _ANSWER, _SYSTEM, _USER],
    "text behind a result": [
        _USER,
        {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        _USER,
    ],
}
_ITEMS: dict[str, list[dict[str, Any]]] = {
    "two user turns": [_USER, _USER],
    "assistant first": [_ANSWER, _USER],
    "system in the middle": [_SYSTEM, _USER, _ANSWER, _SYSTEM, _USER],
    "text behind a result": [
        _USER,
        {"type": "function_call", "call_id": "c1", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "noon"},
        _USER,
    ],
}
_TURNS: dict[str, list[dict[str, Any]]] = {
    "two user turns": [_USER, _USER],
    "assistant first": [_ANSWER, _USER],
    "text behind a result": [
        _USER,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "now", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "noon"},
                {"type": "text", "text": "hello"},
            ],
        },
    ],
}
_BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"chat {name}": ("/v1/chat/completions", {"messages": chat, "max_tokens": 4})
        for name, chat in _CHATS.items()
    },
    **{
        f"responses {name}": ("/v1/responses", {"input": items, "max_output_tokens": 16})
        for name, items in _ITEMS.items()
    },
    **{
        f"messages {name}": ("/v1/messages", {"messages": turns, "system": "x", "max_tokens": 4})
        for name, turns in _TURNS.items()
    },
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("templates")
    for name, template in (("alternating", GEMMA), ("parts", PARTS)):
        file = write_tiny_gguf(folder / f"{name}.gguf", context_tokens=4096, template=template)
        command("model", "add", file, "--in-place", "--alias", name, "--data-dir", folder / "data")
    with running_server(folder / "data") as server, server.client() as client:
        yield client


@pytest.mark.parametrize("model", ["alternating", "parts"])
@pytest.mark.parametrize(("path", "body"), _BODIES.values(), ids=_BODIES)
def test_chat_when_its_order_is_unusual_then_answered(
    client: httpx.Client, path: str, body: dict[str, Any], model: str
) -> None:
    """F13"""
    response = client.post(path, json={"model": model, **body})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("model", ["alternating", "parts"])
def test_text_when_it_grows_then_the_prompt_does_in_every_dialect(
    client: httpx.Client, model: str
) -> None:
    """F14: the tiny model has a token for each of these characters."""
    added = 499
    for count in (_count_tokens, _count_chat, _count_responses, _count_messages):
        short, long = (count(client, model, "z" * length) for length in (1, 1 + added))
        assert long - short == added, count


def _count_tokens(client: httpx.Client, model: str, text: str) -> int:
    turns = [{"role": "user", "content": text}]
    body = {"model": model, "messages": turns}
    return _post(client, "/v1/messages/count_tokens", body)["input_tokens"]


def _count_chat(client: httpx.Client, model: str, text: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    return _post(client, "/v1/chat/completions", body)["usage"]["prompt_tokens"]


def _count_responses(client: httpx.Client, model: str, text: str) -> int:
    body = {"model": model, "input": text, "max_output_tokens": 16}
    return _post(client, "/v1/responses", body)["usage"]["input_tokens"]


def _count_messages(client: httpx.Client, model: str, text: str) -> int:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    usage = _post(client, "/v1/messages", body)["usage"]
    return usage["input_tokens"] + usage["cache_read_input_tokens"]


def _post(client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()
