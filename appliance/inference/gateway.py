"""The one door to every model: finds what a name leads to, and asks it."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from appliance import telemetry
from appliance.config.settings import Settings
from appliance.domain.completions import Urgency
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Message,
    Sampling,
)
from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.domain.usage import UsageKind
from appliance.inference import factory
from appliance.inference.admission.shares import Lookup, Owners, nobody
from appliance.inference.completion_run import Machinery, Running
from appliance.inference.embedding import Embedding
from appliance.inference.request import provider_boundary, token_estimate
from appliance.inference.request.call import Call, Caller, CompletionCall
from appliance.inference.request.route import Route, route_of
from appliance.inference.response_cache import CacheFigures
from appliance.inference.routing.data_policy import Permission
from appliance.inference.routing.model_directory import AUTO, DefaultModel, Directory
from appliance.inference.usage.recorder import Books, Ledger
from appliance.spi.provider import Provider
from appliance.store.sqlite.database import Database

__all__ = ["Gateway", "Route"]

_OWNER = "user:"
Fingerprint = Callable[[Route], Awaitable[str]]


async def no_fingerprint(_route: Route) -> str:
    """Where nothing is known of a model but its name."""
    return ""


class Gateway:
    """Models by name, and completions by them.

    `default_model` gives the name to use where a request names none, or None. With a
    database usage is recorded there, between `start` and `close`. `username` gives the
    name of a user id; `fingerprint` tells one state of a model from another.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default_model: DefaultModel,
        settings: Settings | None = None,
        *,
        db: Database | None = None,
        username: Lookup = nobody,
        fingerprint: Fingerprint = no_fingerprint,
    ) -> None:
        settings = settings or Settings()
        self._directory = Directory(providers, default_model, factory.aliases(settings.routes))
        self._policy = factory.policy(settings.policy)
        shares = {name: share.weight for name, share in settings.shares.items()}
        self._owners = Owners(username, shares, needed=bool(settings.policy.local_only_users))
        self._prices = factory.prices(settings.prices)
        self._limits = factory.limits(settings.quotas)
        self._gate = factory.gate(settings.gateway, self._owners)
        self._books = Books(self._prices) if db is None else Ledger(db, self._prices)
        self._machinery = Machinery(
            provider=self._directory.provider,
            chain=factory.chain(settings, self._gate, self._limits, self._prices, self._is_local),
            books=self._books,
            cache=factory.cache(settings.cache),
            fingerprint=fingerprint,
            clock=time.monotonic,
            deadlines=factory.deadlines(settings.gateway),
        )

    async def start(self) -> None:
        """Open the books, and recall what was spent today."""
        telemetry.watch_gate(lambda: self._gate.waiting, lambda: self._gate.running)
        self._limits.recall(await self._books.start())

    async def resolve(self, model: str | None, provider: str | None) -> Route:
        """What the name leads to; see Directory.resolve."""
        return await self._directory.resolve(model, provider)

    async def route_for(
        self, model: str | None, provider: str | None, caller: Caller, labels: Sequence[str] = ()
    ) -> Route:
        """What the name leads to for this caller.

        A text that may not leave the box goes to the route's local models only, and where
        no model was named, to any local one. Raises as `resolve` does, and Forbidden.
        """
        route = await self.resolve(model, provider)
        permission = await self._permission(caller, labels)
        if model in (None, AUTO) and not any(permission.allows(r.provider) for r in route.all):
            others = [
                info
                for info in await self.models()
                if permission.allows(info.provider)
                and provider in (None, info.provider)
                and not info.embeds
            ]
            route = route_of(others) if others else route
        return permission.within(route)

    async def models(self) -> list[ModelInfo]:
        """Every model of every provider; a provider that fails to list is left out and logged."""
        return await self._directory.models()

    @property
    def aliases(self) -> Mapping[str, Sequence[str]]:
        """The names that lead to several models, each with these in their order."""
        named = self._directory.aliases.items()
        return {name: [candidate.model for candidate in models] for name, models in named}

    def providers(self) -> list[ProviderStatus]:
        return self._directory.statuses()

    def load_of_gate(self) -> tuple[int, int]:
        """How many completions run, and how many wait for their turn."""
        return self._gate.running, self._gate.waiting

    def cache_figures(self) -> CacheFigures:
        """How the response cache does."""
        return self._machinery.cache.figures()

    async def load(self, route: Route) -> None:
        """Make the model ready; raises UnknownModel or ModelUnavailable with the reason."""
        await self._directory.provider(route.provider).load(route.model)

    async def count_tokens(self, route: Route, messages: Sequence[Message], owner: str = "") -> int:
        """The exact number of a task's prompt tokens, loading the model if need be."""
        request = CompletionRequest(model="", messages=tuple(messages), owner=owner)
        permission = await self._permission(caller_named(owner), ())
        return await self.count(permission.within(route), request)

    async def count(self, route: Route, request: CompletionRequest) -> int:
        """The exact number of prompt tokens of this request, by the route's first model."""
        provider = self._directory.provider(route.provider)
        return await provider_boundary.asked(
            route, provider.count_tokens(replace(request, model=route.model))
        )

    async def embed(self, route: Route, request: EmbeddingRequest, caller: Caller) -> Embeddings:
        """Vectors for texts. Raises InvalidInput for a model that makes none."""
        caller = await self._owners.known(caller)
        call = Call(
            route=route,
            size=token_estimate.of_texts(request.texts),
            caller=caller,
            kind=UsageKind.EMBEDDING,
        )
        return await Embedding(call, request, self._machinery).made()

    def run(self, call: CompletionCall) -> Running:
        """One completion; nothing happens before it is begun or read."""
        return Running(call, self._machinery)

    async def stream(
        self,
        route: Route,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None,
        owner: str = "",
        *,
        urgency: Urgency = Urgency.BATCH,
        shared_system: bool = False,
    ) -> AsyncIterator[CompletionEvent]:
        """One completion of a task; see spi.Provider.stream for the events and errors.

        With `shared_system` the leading system message is the box's own.
        """
        request = CompletionRequest(
            model="",
            messages=tuple(messages),
            sampling=sampling,
            max_tokens=max_tokens,
            owner=owner,
            shared_system=shared_system,
        )
        caller = await self._owners.known(caller_named(owner))
        permitted = (await self._permission(caller, ())).within(route)
        running = self.run(
            CompletionCall(
                route=permitted,
                request=request,
                size=token_estimate.of_completion(request),
                caller=caller,
                kind=UsageKind.TASK,
                urgency=urgency,
            )
        )
        try:
            async for event in running:
                yield event
        finally:
            await running.aclose()

    async def close(self) -> None:
        """Close every provider, also where closing another one failed; then the books."""
        try:
            await self._directory.close()
        finally:
            await self._books.close()

    async def _permission(self, caller: Caller, labels: Sequence[str]) -> Permission:
        caller = await self._owners.known(caller)
        return self._policy.permits(caller.username, labels, self._is_local)

    def _is_local(self, provider: str) -> bool:
        return self._directory.provider(provider).status().local


def caller_named(owner: str) -> Caller:
    """The caller behind an owner's name, "user:7"."""
    user_id = owner.removeprefix(_OWNER)
    return Caller(owner, int(user_id) if user_id.isdecimal() else None)
