"""Gateways over scripted providers, and requests to them."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from appliance.config.settings import GatewaySettings, RouteSettings, Settings
from appliance.domain.completions import CompletionReport, CompletionSpec
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Message,
    MessageRole,
    Sampling,
    TextDelta,
)
from appliance.domain.models import ProviderStatus
from appliance.domain.users import Principal, Role, Scope, User
from appliance.errors import ApplianceError, ProviderFailed
from appliance.inference import Gateway
from appliance.services.completions.service import Completion, CompletionService
from appliance.spi.provider import Provider
from tests.support.agent_fakes import Answer, ScriptedProvider, answers_in_turn

GREEDY = Sampling(temperature=0.0)
RETRYABLE = ProviderFailed("it hiccuped", details={"retryable": True})
PERMANENT = ProviderFailed("it is broken")
STALLED = ProviderFailed("it made no progress", details={"stalled": True, "retryable": False})


Script = Callable[[CompletionRequest], Answer]


class Scripted(ScriptedProvider):
    """A scripted provider that may be remote."""

    def __init__(
        self,
        script: "Script | Answer",
        *,
        name: str = "near",
        local: bool = True,
        **more: Any,
    ) -> None:
        super().__init__(script if callable(script) else answers_in_turn(script), name=name, **more)
        self._local = local

    def status(self) -> ProviderStatus:
        return replace(super().status(), local=self._local)


class Breaking(Scripted):
    """Fails in every answer after `after` events."""

    def __init__(self, after: int, script: str, **more: Any) -> None:
        super().__init__(script, **more)
        self._after = after

    async def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        remaining = self._after
        async for event in super().stream(request):
            if not remaining:
                raise RETRYABLE
            remaining -= 1
            yield event


def user(user_id: int = 1, *scopes: str, username: str = "alice") -> Principal:
    """A principal; without scopes it has all of them."""
    person = User(user_id, f"user_{user_id}", username, f"{username}@x.org", username,
                  Role.DEVELOPER, disabled=False, created_at=0.0)  # fmt: skip
    return Principal(person, frozenset(scopes or {Scope.ALL.value}), key_id=11)


def settings(**sections: Any) -> Settings:
    """Settings with short pauses."""
    quick: dict[str, Any] = {"gateway": GatewaySettings(backoff_s=0.001, tries=3)}
    return Settings(**(quick | sections))


def route(*models: str, weights: Sequence[float] = ()) -> dict[str, RouteSettings]:
    """The route "smart" along these models."""
    return {"smart": RouteSettings(models=models, weights=tuple(weights))}


def gateway_over(*providers: Provider, default: str | None = None, **more: Any) -> Gateway:
    """`more`: sections of the settings, and keyword arguments of the gateway."""

    async def name() -> str | None:
        return default

    own = {key: more.pop(key) for key in ("db", "username", "fingerprint") if key in more}
    return Gateway({p.name: p for p in providers}, name, settings(**more), **own)


def service_over(*providers: ScriptedProvider, **more: Any) -> CompletionService:
    return CompletionService(gateway_over(*providers, **more))


def chat_spec(text: str = "hello", **more: Any) -> CompletionSpec:
    fields: dict[str, Any] = {"model": None, "messages": (Message(MessageRole.USER, text),)}
    return CompletionSpec(**(fields | more))


async def read_all(completion: Completion) -> tuple[str, list[CompletionEvent], CompletionReport]:
    """The whole text, every event, and the report at the end."""
    events = [event async for event in completion]
    await completion.aclose()
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    return text, events, completion.report


async def answer(
    service: CompletionService,
    spec: CompletionSpec | None = None,
    principal: Principal | None = None,
) -> tuple[str, CompletionReport]:
    """One completion, read to its end."""
    (completion,) = await service.start(principal or user(), spec or chat_spec())
    text, _, report = await read_all(completion)
    return text, report


def outcomes(report: CompletionReport) -> list[tuple[str, str]]:
    return [(attempt.provider, attempt.error) for attempt in report.attempts]


def fail_then_answer(
    times: int, error: ApplianceError, then: str
) -> Callable[[CompletionRequest], Answer]:
    """Fails `times` times, then answers."""
    failures = [error] * times

    def script(_: CompletionRequest) -> Answer:
        return failures.pop() if failures else then

    return script
