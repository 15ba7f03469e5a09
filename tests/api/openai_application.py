"""The OpenAI dialect over scripted completions, and a client of it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import httpx
from litestar import Litestar

from appliance.api.application import build_api
from appliance.config.settings import Settings
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import EmbeddingRequest, Embeddings, TokenUsage
from appliance.domain.models import ModelInfo, ModelState
from appliance.domain.users import Principal
from appliance.services.completions.service import Completion
from appliance.services.container import Services
from appliance.services.rate_window import RateWindows
from tests.api.scripted_completions import Scripted, ScriptedCompletions, Step
from tests.support.accounts import open_accounts_harness

MODELS = (
    ModelInfo("starter", "llama_cpp", ModelState.READY, context_tokens=2048, is_default=True),
    ModelInfo("gpt", "openai", ModelState.READY),
    ModelInfo("starter", "openai", ModelState.FAILED, problem="no key", embeds=True),
)


class ScriptedChoices(ScriptedCompletions):
    """Any number of choices; `scripts` are their steps, if they differ."""

    def __init__(self) -> None:
        super().__init__()
        self.scripts: list[Sequence[Step]] = []
        self.embedded: list[EmbeddingRequest] = []

    async def start(
        self, principal: Principal, spec: CompletionSpec, choices: int = 1
    ) -> Sequence[Completion]:
        await super().start(principal, spec)
        self.started.pop()
        state = [Scripted(self._next_steps()) for _ in range(choices)]
        self.started += state
        return state

    async def embed(self, principal: Principal, request: EmbeddingRequest) -> Embeddings:
        if self.refusal is not None:
            raise self.refusal
        self.embedded.append(request)
        return Embeddings(tuple((0.6, -0.8) for _ in request.texts), TokenUsage(7))

    def _next_steps(self) -> Sequence[Step]:
        return self.scripts.pop(0) if self.scripts else self.steps


class Catalog:
    async def models(self, provider: str | None = None) -> Sequence[ModelInfo]:
        return [each for each in MODELS if provider in (None, each.provider)]

    def find_model_problem(self, name: str) -> None:
        return None


@dataclass
class OpenAiApi:
    app: Litestar
    key: str
    service: ScriptedChoices

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        """A client in this process; "" for one without credentials."""
        given = self.key if key is None else key
        headers = {"Authorization": f"Bearer {given}"} if given else {}
        transport = httpx.ASGITransport(cast("Any", self.app), raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://server.test", headers=headers
        )


@asynccontextmanager
async def open_openai(folder: Path, settings: Settings) -> AsyncGenerator[OpenAiApi, None]:
    """The application with real accounts; the other services are unused."""
    async with open_accounts_harness(folder) as harness:
        await harness.add("alice")
        key = await harness.create_key("alice")
        service = ScriptedChoices()
        unused = dict.fromkeys(each.name for each in fields(Services))
        given: Any = unused | {
            "accounts": harness.accounts,
            "catalog": Catalog(),
            "completions": service,
            "rate_windows": RateWindows(harness.db),
        }
        yield OpenAiApi(build_api(Services(**given), settings), key, service)
