"""Counts the tokens of a prompt on servers that speak OpenAI's API.

The API itself has no such call. vLLM has one (/tokenize takes a chat), and so has
llama-server (/apply-template, then /tokenize); which of them it is, is probed once. All
others get an upper bound: no tokenizer in use makes more tokens than the text has bytes.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from appliance.domain.messages import CompletionRequest
from appliance.errors import ApplianceError, InvalidInput, ProviderFailed
from plugins._shared.http_provider.client import HttpClient
from plugins.providers.openai.requests import build_messages, build_tools
from plugins.providers.openai.wire import AppliedTemplate, LlamaServerTokens, VllmTokenCount

# Upper bound for the tokens that a chat template adds per message; templates in use add up to ten.
_MESSAGE_TOKENS = 16
_TIMEOUT_S = 30.0
_UNSUPPORTED_STATUSES = (200, 400, 404, 405, 422, 501)
CountFunction = Callable[[HttpClient, CompletionRequest], Awaitable[int]]


class TokenCounter:
    """Counts for one server; `official`: it is OpenAI's, so there is nothing to probe."""

    def __init__(self, *, official: bool) -> None:
        self._count: CountFunction | None = _upper_bound if official else None

    async def count(self, client: HttpClient, request: CompletionRequest) -> int:
        """The number of tokens in the prompt, or an upper bound."""
        if request.raw is not None and request.raw.suffix is not None:
            return await _upper_bound(client, request)
        if self._count is not None:
            return await self._count(client, request)
        for count in (_count_with_vllm, _count_with_llama_server):
            try:
                tokens = await count(client, request)
            except (InvalidInput, ProviderFailed) as error:
                if not _means_unsupported(error):
                    raise
            else:
                self._count = count
                return tokens
        self._count = _upper_bound
        return await _upper_bound(client, request)


async def _count_with_vllm(client: HttpClient, request: CompletionRequest) -> int:
    body: dict[str, Any] = {"model": request.model} | _prompt(request)
    response = await client.post(_root(client) + "/tokenize", body, VllmTokenCount, _TIMEOUT_S)
    return response.count


async def _count_with_llama_server(client: HttpClient, request: CompletionRequest) -> int:
    prompt = request.raw.text if request.raw else ""
    if request.raw is None:
        template = await client.post(
            _root(client) + "/apply-template", _prompt(request), AppliedTemplate, _TIMEOUT_S
        )
        prompt = template.prompt
    body = {"content": prompt, "add_special": True, "parse_special": request.raw is None}
    response = await client.post(_root(client) + "/tokenize", body, LlamaServerTokens, _TIMEOUT_S)
    return len(response.tokens)


async def _upper_bound(client: HttpClient, request: CompletionRequest) -> int:
    del client
    if request.raw is not None:
        return (
            _byte_length(request.raw.text)
            + _byte_length(request.raw.suffix or "")
            + _MESSAGE_TOKENS
        )
    messages = build_messages(request)
    texts = sum(_byte_length(message.content) for message in request.messages)
    calls = sum(len(msgspec.json.encode(message.get("tool_calls", ""))) for message in messages)
    tools = len(msgspec.json.encode(build_tools(request.tools))) if request.tools else 0
    return texts + calls + tools + _MESSAGE_TOKENS * (len(messages) + 1)


def _prompt(request: CompletionRequest) -> dict[str, Any]:
    if request.raw is not None:
        return {"prompt": request.raw.text}
    body: dict[str, Any] = {"messages": build_messages(request)}
    return body | ({"tools": build_tools(request.tools)} if request.tools else {})


def _root(client: HttpClient) -> str:
    return client.base_url.removesuffix("/v1")


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _means_unsupported(error: ApplianceError) -> bool:
    """Whether the server lacks the endpoint, rather than failing for the moment."""
    return error.details.get("status") in _UNSUPPORTED_STATUSES
