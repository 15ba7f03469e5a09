"""How many tokens a prompt has, at addresses that speak OpenAI's API.

The API itself does not tell. vLLM does (/tokenize takes a chat), and so does llama-server
(/apply-template, then /tokenize): which one it is, is found out once. For all others the
answer is an upper bound: no tokenizer in use makes more tokens than the text has bytes.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from appliance.domain.messages import CompletionRequest
from appliance.errors import ApplianceError, InvalidInput, ProviderFailed
from plugins._shared.http_provider.client import Client
from plugins.providers.openai.requests import messages, tools
from plugins.providers.openai.wire import Template, Tokens, VllmCount

# A template's own tokens around one turn; those in use take up to ten.
_TURN_TOKENS = 16
_DEADLINE_S = 30.0
_OTHER_SERVER = (200, 400, 404, 405, 422, 501)
Count = Callable[[Client, CompletionRequest], Awaitable[int]]


class Counter:
    """Counts for one address; `official`: OpenAI's own, where there is nothing to find out."""

    def __init__(self, *, official: bool) -> None:
        self._count: Count | None = _at_most if official else None

    async def count(self, client: Client, request: CompletionRequest) -> int:
        """The tokens of the prompt, or an upper bound of them."""
        if request.raw is not None and request.raw.suffix is not None:
            return await _at_most(client, request)
        if self._count is not None:
            return await self._count(client, request)
        for way in (_by_vllm, _by_llama_server):
            try:
                found = await way(client, request)
            except (InvalidInput, ProviderFailed) as error:
                if not _is_unknown_there(error):
                    raise
            else:
                self._count = way
                return found
        self._count = _at_most
        return await _at_most(client, request)


async def _by_vllm(client: Client, request: CompletionRequest) -> int:
    body: dict[str, Any] = {"model": request.model} | _prompt(request)
    found = await client.post(_root(client) + "/tokenize", body, VllmCount, _DEADLINE_S)
    return found.count


async def _by_llama_server(client: Client, request: CompletionRequest) -> int:
    prompt = request.raw.text if request.raw else ""
    if request.raw is None:
        template = await client.post(
            _root(client) + "/apply-template", _prompt(request), Template, _DEADLINE_S
        )
        prompt = template.prompt
    body = {"content": prompt, "add_special": True, "parse_special": request.raw is None}
    found = await client.post(_root(client) + "/tokenize", body, Tokens, _DEADLINE_S)
    return len(found.tokens)


async def _at_most(client: Client, request: CompletionRequest) -> int:
    del client
    if request.raw is not None:
        return _size(request.raw.text) + _size(request.raw.suffix or "") + _TURN_TOKENS
    turns = messages(request)
    texts = sum(_size(message.content) for message in request.messages)
    calls = sum(len(msgspec.json.encode(turn.get("tool_calls", ""))) for turn in turns)
    offered = len(msgspec.json.encode(tools(request.tools))) if request.tools else 0
    return texts + calls + offered + _TURN_TOKENS * (len(turns) + 1)


def _prompt(request: CompletionRequest) -> dict[str, Any]:
    if request.raw is not None:
        return {"prompt": request.raw.text}
    body: dict[str, Any] = {"messages": messages(request)}
    return body | ({"tools": tools(request.tools)} if request.tools else {})


def _root(client: Client) -> str:
    return client.base_url.removesuffix("/v1")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _is_unknown_there(error: ApplianceError) -> bool:
    """Whether it says what the address can't do, not that it can't answer now."""
    return error.details.get("status") in _OTHER_SERVER
