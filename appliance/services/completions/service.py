"""Chats and raw completions for the wire formats."""

import asyncio
from collections.abc import Sequence

from msgspec.structs import replace

from appliance.domain.completions import Ask
from appliance.domain.messages import CompletionRequest, EmbeddingRequest, Embeddings
from appliance.domain.usage import UsageKind
from appliance.domain.users import Principal
from appliance.errors import InvalidInput
from appliance.inference import Caller, CompletionCall, Gateway, Route, Running
from appliance.inference.request import token_estimate
from appliance.services.accounts import permissions
from appliance.services.completions.buffered import Pumped
from appliance.services.completions.protocol import Completion

MAX_CHOICES = 32
_SEEDS = 2**32


class CompletionService:
    """Implements services.completions.Completions."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def start(self, principal: Principal, ask: Ask, choices: int = 1) -> Sequence[Completion]:
        """Begin `choices` completions; see Completions.start."""
        permissions.require_chat(principal)
        _check(ask, choices)
        caller = caller_of(principal)
        route = await self._gateway.route_for(ask.model, ask.provider, caller, ask.labels)
        calls = [_call(ask, route, caller, seed) for seed in _seeds(ask, choices)]
        if choices == 1:
            running = self._gateway.run(calls[0])
            await running.begin()
            return [running]
        return await _begin_all([self._gateway.run(call) for call in calls])

    async def count_tokens(self, principal: Principal, ask: Ask) -> int:
        """The exact prompt tokens; see Completions.count_tokens."""
        permissions.require_chat(principal)
        _check(ask, 1)
        caller = caller_of(principal)
        route = await self._gateway.route_for(ask.model, ask.provider, caller, ask.labels)
        return await self._gateway.count(route, _request(ask, caller, ask.sampling.seed))

    async def embed(self, principal: Principal, request: EmbeddingRequest) -> Embeddings:
        """Vectors; see Completions.embed."""
        permissions.require_chat(principal)
        if not request.texts:
            raise InvalidInput.at("input", "there is nothing to make vectors of")
        caller = caller_of(principal)
        route = await self._gateway.route_for(request.model, None, caller)
        return await self._gateway.embed(route, request, caller)


def caller_of(principal: Principal) -> Caller:
    """Who asks, as the gateway knows them."""
    user = principal.user
    return Caller(f"user:{user.id}", user.id, principal.key_id, user.username)


def _check(ask: Ask, choices: int) -> None:
    if not 1 <= choices <= MAX_CHOICES:
        raise InvalidInput.at("n", f"must be from 1 to {MAX_CHOICES}")
    if ask.raw is None and not ask.messages:
        raise InvalidInput.at("messages", "there must be at least one message")
    if ask.raw is not None and ask.messages:
        raise InvalidInput.at("prompt", "a raw prompt and messages exclude each other")
    if ask.max_tokens is not None and ask.max_tokens < 1:
        raise InvalidInput.at("max_tokens", "must be at least 1")


def _seeds(ask: Ask, choices: int) -> list[int | None]:
    """One seed per choice: with a seed given, the first choice is what it gives alone."""
    seed = ask.sampling.seed
    if seed is None:
        return [None] * choices
    return [(seed + index) % _SEEDS for index in range(choices)]


def _call(ask: Ask, route: Route, caller: Caller, seed: int | None) -> CompletionCall:
    request = _request(ask, caller, seed)
    return CompletionCall(
        route=route,
        request=request,
        size=token_estimate.of_completion(request),
        caller=caller,
        kind=UsageKind.CHAT,
        urgency=ask.urgency,
        may_cache=ask.may_cache,
    )


def _request(ask: Ask, caller: Caller, seed: int | None) -> CompletionRequest:
    """The ask without its model, which is the route's business."""
    return CompletionRequest(
        model="",
        messages=ask.messages,
        sampling=ask.sampling if seed == ask.sampling.seed else replace(ask.sampling, seed=seed),
        max_tokens=ask.max_tokens,
        owner=caller.owner,
        tools=ask.tools,
        tool_choice=ask.tool_choice,
        output=ask.output,
        raw=ask.raw,
        context_shift=ask.context_shift,
    )


async def _begin_all(runs: Sequence[Running]) -> Sequence[Completion]:
    """Let all of them run at their own pace, so that none waits for another to be read."""
    pumped = [Pumped(run) for run in runs]
    try:
        await asyncio.gather(*(each.begin() for each in pumped))
    except BaseException:
        for each in pumped:
            await each.aclose()
        raise
    return pumped
