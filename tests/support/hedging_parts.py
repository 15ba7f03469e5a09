"""Gateways in which a second model is asked beside a slow one."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from appliance.config.settings import GatewaySettings
from appliance.domain.messages import CompletionRequest
from appliance.domain.models import ModelInfo, ModelState
from appliance.errors import ApplianceError
from appliance.inference import Gateway
from appliance.inference.request.route import Route
from appliance.services.completions.service import CompletionService
from tests.support.agent_fakes import Answer
from tests.support.gateway_parts import Script, Scripted, ask, gateway_over, route

AT_ONCE = 1e-6
SMART = ask(model="smart")
SLOW_SECOND = [("one", ""), ("two", "HEDGED")]
SLOW_FIRST = [("one", "HEDGED"), ("two", "")]


def far(name: str, model: str, script: Script | Answer, **more: Any) -> Scripted:
    return Scripted(script, name=name, local=False, models=(model,), **more)


def hedging(after_s: float = AT_ONCE, **more: Any) -> GatewaySettings:
    return GatewaySettings(hedge_after_s=after_s, backoff_s=0.001, **more)


def over(*providers: Scripted, **more: Any) -> Gateway:
    """A gateway whose route "smart" leads along all of the providers' models."""
    models = [f"{p.name}/{'abcd'[place]}" for place, p in enumerate(providers)]
    sections: dict[str, Any] = {"gateway": hedging(), "routes": route(*models)}
    return gateway_over(*providers, **(sections | more))


def service(*providers: Scripted, **more: Any) -> CompletionService:
    return CompletionService(over(*providers, **more))


def frees(event: asyncio.Event, answer: Answer) -> Callable[[CompletionRequest], Answer]:
    """Answers so, and sets the event when asked."""

    def script(_: CompletionRequest) -> Answer:
        event.set()
        return answer

    return script


class Held(Scripted):
    """Fails when the event is set, and not before."""

    def __init__(self, event: asyncio.Event, error: ApplianceError, **more: Any) -> None:
        super().__init__(event, local=False, **more)
        self._error = error

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[Any, None]:
        async for _ in super().stream(request):
            raise self._error
        yield


async def turns(count: int = 50) -> None:
    """Let whatever can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


def candidate(provider: str, state: ModelState = ModelState.READY) -> Route:
    return Route(provider, "m", ModelInfo(name="m", provider=provider, state=state))
