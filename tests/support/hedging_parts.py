"""Gateways with hedged requests."""

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
from tests.support.gateway_parts import Script, Scripted, chat_spec, gateway_over, route

AT_ONCE = 1e-6
SMART = chat_spec(model="smart")
SECOND_LOST = [("one", ""), ("two", "HEDGED")]
FIRST_LOST = [("one", "HEDGED"), ("two", "")]


def remote(name: str, model: str, script: Script | Answer, **more: Any) -> Scripted:
    return Scripted(script, name=name, local=False, models=(model,), **more)


def hedging(after_s: float = AT_ONCE, **more: Any) -> GatewaySettings:
    return GatewaySettings(hedge_after_s=after_s, backoff_s=0.001, **more)


def hedged_gateway(*providers: Scripted, **more: Any) -> Gateway:
    """A gateway whose route "smart" leads along all of the providers' models."""
    models = [f"{p.name}/{'abcd'[index]}" for index, p in enumerate(providers)]
    sections: dict[str, Any] = {"gateway": hedging(), "routes": route(*models)}
    return gateway_over(*providers, **(sections | more))


def hedged_service(*providers: Scripted, **more: Any) -> CompletionService:
    return CompletionService(hedged_gateway(*providers, **more))


def set_then_answer(event: asyncio.Event, answer: Answer) -> Callable[[CompletionRequest], Answer]:
    """Sets the event, then answers."""

    def script(_: CompletionRequest) -> Answer:
        event.set()
        return answer

    return script


class DelayedFailure(Scripted):
    """Fails once the event is set."""

    def __init__(self, event: asyncio.Event, error: ApplianceError, **more: Any) -> None:
        super().__init__(event, local=False, **more)
        self._error = error

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[Any, None]:
        async for _ in super().stream(request):
            raise self._error
        yield


async def run_event_loop(count: int = 50) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


def target(provider: str, state: ModelState = ModelState.READY) -> Route:
    return Route(provider, "m", ModelInfo(name="m", provider=provider, state=state))
