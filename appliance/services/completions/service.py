"""Chats, raw completions and embeddings: direct calls to a model, without a durable task."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from msgspec.structs import replace

from appliance.config.settings import LimitSettings
from appliance.domain.completions import CompletionReport, CompletionSpec
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
)
from appliance.domain.usage import UsageKind
from appliance.domain.users import Principal
from appliance.errors import InvalidInput, ServerStopping
from appliance.inference import Caller, CompletionCall, CompletionRun, Gateway, Route
from appliance.inference.request import token_estimate
from appliance.services.accounts import permissions
from appliance.services.completions.buffered import BufferedCompletion
from appliance.services.completions.limits import check_embedded_texts, check_size

MAX_CHOICES = 32
_SEED_COUNT = 2**32


class Completion(Protocol):
    """One running completion. Iterate it once; close it in every case.

    `report` is updated while it runs. `aclose` ends the generation at once and records the
    usage up to then.
    """

    @property
    def report(self) -> CompletionReport: ...

    def __aiter__(self) -> AsyncIterator[CompletionEvent]: ...

    async def aclose(self) -> None: ...


class CompletionService:
    """What the OpenAI and Anthropic dialects call."""

    def __init__(self, gateway: Gateway, limits: LimitSettings | None = None) -> None:
        self._gateway = gateway
        self._limits = limits or LimitSettings()
        self._stopping = False

    def stop(self) -> None:
        """Start nothing from now on: the server is shutting down."""
        self._stopping = True

    async def start(
        self, principal: Principal, spec: CompletionSpec, choices: int = 1
    ) -> Sequence[Completion]:
        """Start `choices` completions of `spec`, each with a seed of its own.

        Returns when each has its first event, so that a failure before the first token is
        an error of the request. Raises Forbidden, InvalidInput, UnknownModel,
        ContextLengthExceeded, QueueFull, RateLimited, ModelUnavailable, ProviderFailed,
        DeadlineExceeded, ServerStopping; a later failure is raised by the iteration.
        Cancelling the call ends all of them.
        """
        self._require_running()
        permissions.require_chat(principal)
        _validate(spec, choices)
        check_size(spec, self._limits)
        caller = to_caller(principal)
        route = await self._gateway.route_for(spec.model, spec.provider, caller, spec.labels)
        calls = [_build_call(spec, route, caller, seed) for seed in _choice_seeds(spec, choices)]
        if choices == 1:
            running = self._gateway.run(calls[0])
            await running.start()
            return [running]
        return await _start_buffered([self._gateway.run(call) for call in calls])

    async def count_tokens(self, principal: Principal, spec: CompletionSpec) -> int:
        """The exact number of prompt tokens, with template and tools. Raises as `start` does."""
        permissions.require_chat(principal)
        _validate(spec, 1)
        check_size(spec, self._limits)
        caller = to_caller(principal)
        route = await self._gateway.route_for(spec.model, spec.provider, caller, spec.labels)
        return await self._gateway.count_request_tokens(
            route, _build_request(spec, caller, spec.sampling.seed)
        )

    async def embed(self, principal: Principal, request: EmbeddingRequest) -> Embeddings:
        """Vectors of `request.texts`; `request.model` is an alias or "provider/name".

        Raises as `start` does.
        """
        self._require_running()
        permissions.require_chat(principal)
        if not request.texts:
            raise InvalidInput.at("input", "must hold at least one text")
        check_embedded_texts(request.texts, self._limits)
        caller = to_caller(principal)
        route = await self._gateway.route_for(request.model, None, caller)
        return await self._gateway.embed(route, request, caller)

    def _require_running(self) -> None:
        if self._stopping:
            raise ServerStopping


def to_caller(principal: Principal) -> Caller:
    """The caller as the gateway identifies it."""
    user = principal.user
    return Caller(f"user:{user.id}", user.id, principal.key_id, user.username)


def _validate(spec: CompletionSpec, choices: int) -> None:
    if not 1 <= choices <= MAX_CHOICES:
        raise InvalidInput.at("n", f"{choices} is out of range (1 to {MAX_CHOICES})")
    if spec.raw is None and not spec.messages:
        raise InvalidInput.at("messages", "must hold at least one message")
    if spec.raw is not None and spec.messages:
        raise InvalidInput.at("prompt", "can't be combined with `messages`")
    if spec.max_tokens is not None and spec.max_tokens < 1:
        raise InvalidInput.at("max_tokens", "must be at least 1")


def _choice_seeds(spec: CompletionSpec, choices: int) -> list[int | None]:
    """One seed per choice; the first is the requested one, so that it equals a single choice."""
    seed = spec.sampling.seed
    if seed is None:
        return [None] * choices
    return [(seed + index) % _SEED_COUNT for index in range(choices)]


def _build_call(
    spec: CompletionSpec, route: Route, caller: Caller, seed: int | None
) -> CompletionCall:
    request = _build_request(spec, caller, seed)
    return CompletionCall(
        route=route,
        request=request,
        estimate=token_estimate.estimate_completion(request),
        caller=caller,
        kind=UsageKind.CHAT,
        priority=spec.priority,
        may_cache=spec.may_cache,
    )


def _build_request(spec: CompletionSpec, caller: Caller, seed: int | None) -> CompletionRequest:
    """The request of a provider; the route fills in the model."""
    return CompletionRequest(
        model="",
        messages=spec.messages,
        sampling=spec.sampling if seed == spec.sampling.seed else replace(spec.sampling, seed=seed),
        max_tokens=spec.max_tokens,
        owner=caller.owner,
        tools=spec.tools,
        tool_choice=spec.tool_choice,
        output=spec.output,
        raw=spec.raw,
        context_shift=spec.context_shift,
    )


async def _start_buffered(runs: Sequence[CompletionRun]) -> Sequence[Completion]:
    """Start all runs, each buffered, so that none waits for another one's reader."""
    buffered = [BufferedCompletion(run) for run in runs]
    try:
        await asyncio.gather(*(completion.wait_for_first_event() for completion in buffered))
    except BaseException:
        for completion in buffered:
            await completion.aclose()
        raise
    return buffered
