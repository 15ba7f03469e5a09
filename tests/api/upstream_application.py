"""The API over the real gateway and real remote providers, whose upstream is a fake server."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import httpx

from appliance.api.application import build_api
from appliance.config.settings import Settings
from appliance.services.completions.service import CompletionService
from appliance.services.container import Services
from appliance.services.rate_window import RateWindows
from appliance.spi.provider import Provider
from plugins.providers import anthropic, google, openai
from tests.support.accounts import open_accounts_harness
from tests.support.fake_upstream import (
    KEY,
    FakeResponse,
    FakeUpstream,
    as_events,
    build_provider,
    fake_upstream,
)
from tests.support.gateway_parts import Scripted, gateway_over

OPENAI_URL = "http://api.openai.com"
CHAT, PLAIN = f"{OPENAI_URL}/v1/chat/completions", f"{OPENAI_URL}/v1/completions"
VLLM_CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
GEMINI = "/v1beta/models/m:streamGenerateContent"


@dataclass
class UpstreamApi:
    """`post` sends a body of a client; `upstream` shows what the providers made of it."""

    app: Any
    client: httpx.AsyncClient
    upstream: FakeUpstream

    async def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        return await self.client.post(path, json=body)

    def sent(self, path: str) -> dict[str, Any]:
        """The latest body that arrived upstream."""
        return self.upstream.bodies(path)[-1]


def openai_answer(text: str = "ok", reason: str = "stop", **delta: Any) -> FakeResponse:
    choice = {"index": 0, "delta": {"content": text} | delta, "finish_reason": reason}
    usage: Any = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    return as_events({"choices": [choice]}, usage, last=b"data: [DONE]\n\n")


def anthropic_answer(text: str = "ok") -> FakeResponse:
    return as_events(
        {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": text},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    )


def gemini_answer(text: str = "ok") -> FakeResponse:
    candidate = {"content": {"parts": [{"text": text}]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 3, "candidatesTokenCount": 1}
    return as_events({"candidates": [candidate], "usageMetadata": usage})


@asynccontextmanager
async def open_upstream_api(folder: Path, **sections: Any) -> AsyncGenerator[UpstreamApi, None]:
    """The providers openai (as OpenAI itself), vllm (another server of its API), anthropic and
    google, each with the model "m", and a scripted local model "own". `sections`: settings."""
    async with fake_upstream() as upstream, open_accounts_harness(folder) as harness:
        upstream.on(CHAT, openai_answer())
        upstream.on(VLLM_CHAT, openai_answer())
        upstream.on(MESSAGES, anthropic_answer())
        upstream.on(GEMINI, gemini_answer())
        more: dict[str, Any] = {"api_key": KEY, "models": ["m"]}
        providers: list[Provider] = [
            build_provider(openai.register, OPENAI_URL, proxy=upstream.url, **more),
            build_provider(openai.register, upstream.url, "vllm", **more),
            build_provider(anthropic.register, upstream.url, **more),
            build_provider(google.register, upstream.url, **more),
            Scripted("ok", name="llama_cpp", models=["own"], context_tokens=100_000),
        ]
        gateway = gateway_over(*providers, **sections)
        await harness.add("alice")
        key = await harness.create_key("alice")
        unused = dict.fromkeys(each.name for each in fields(Services))
        own = {
            "accounts": harness.accounts,
            "completions": CompletionService(gateway),
            "rate_windows": RateWindows(harness.db),
        }
        services: Any = unused | own
        app = cast("Any", build_api(Services(**services), Settings()))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://server.test", headers={"x-api-key": key}
            ) as client:
                yield UpstreamApi(app, client, upstream)
        finally:
            await gateway.close()
