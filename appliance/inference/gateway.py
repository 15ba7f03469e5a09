"""The gateway: the only access to models, for services and agents."""

import time
from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from appliance import telemetry
from appliance.config.settings import Settings
from appliance.domain.messages import (
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Message,
    Sampling,
)
from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.domain.tasks import Priority, Task
from appliance.domain.usage import TaskCalls, UsageKind
from appliance.errors import ApplianceError, ServerStopping
from appliance.inference import factory
from appliance.inference.admission.shares import CallerShares, UsernameLookup, no_username
from appliance.inference.completion_run import CompletionRun, Fingerprint, GatewayServices
from appliance.inference.embedding import EmbeddingRun
from appliance.inference.request import provider_boundary, token_estimate
from appliance.inference.request.call import Call, Caller, CompletionCall
from appliance.inference.request.route import Route, build_route
from appliance.inference.response_cache import CacheStats
from appliance.inference.routing.data_policy import Permission
from appliance.inference.routing.model_directory import AUTO, DefaultModel, ModelDirectory
from appliance.inference.usage.recorder import NullUsageRecorder, StoredUsageRecorder
from appliance.spi.provider import Provider
from appliance.store.database import Database, Transaction

_USER_PREFIX = "user:"


async def no_fingerprint(_route: Route) -> str:
    """For a gateway that knows nothing of a model but its name."""
    return ""


class Gateway:
    """Finds models by name and runs completions and embeddings on them.

    `default_model` gives the name for requests without one, or None. With a database, usage
    is recorded there between `start` and `close`, as that of the server `owner`. `username`
    gives the username of a user id; `fingerprint` changes with the model's file.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default_model: DefaultModel,
        settings: Settings | None = None,
        *,
        db: Database | None = None,
        owner: str = "",
        username: UsernameLookup = no_username,
        fingerprint: Fingerprint = no_fingerprint,
    ) -> None:
        settings = settings or Settings()
        aliases = factory.build_aliases(settings.routes)
        self._directory = ModelDirectory(providers, default_model, aliases)
        self._data_policy = factory.build_data_policy(settings.policy)
        self._shares = CallerShares(
            username,
            {name: share.weight for name, share in settings.shares.items()},
            lookup_needed=bool(settings.policy.local_only_users),
        )
        prices = factory.build_prices(settings.prices)
        self._quotas = factory.build_quotas(settings.quotas)
        self._queue = factory.build_completion_queue(settings.gateway, self._shares, self._quotas)
        self._usage = (
            StoredUsageRecorder(db, prices, owner=owner) if db else NullUsageRecorder(prices)
        )
        self._services = GatewayServices(
            provider=self._directory.provider,
            fallback=factory.build_fallback_chain(
                settings, self._queue, self._quotas, prices, self._is_local
            ),
            usage=self._usage,
            cache=factory.build_response_cache(settings.cache),
            fingerprint=fingerprint,
            clock=time.monotonic,
            deadlines=factory.build_deadlines(settings.gateway),
        )

    async def start(self) -> None:
        """Begin to record usage, and count today's spend against the quotas."""
        telemetry.watch_completion_queue(lambda: self._queue.waiting, lambda: self._queue.running)
        self._quotas.restore_spend(await self._usage.start())

    async def resolve(self, model: str | None, provider: str | None) -> Route:
        """The route of a name; see ModelDirectory.resolve."""
        return await self._directory.resolve(model, provider)

    async def route_for(
        self, model: str | None, provider: str | None, caller: Caller, labels: Sequence[str] = ()
    ) -> Route:
        """The route of a name, restricted to what the data policy allows this caller.

        If no model is named and the default's route is not allowed, any allowed model serves.
        Raises as `resolve` does, and Forbidden.
        """
        route = await self.resolve(model, provider)
        permission = await self._permission(caller, labels)
        if model in (None, AUTO) and not any(permission.allows(r.provider) for r in route.targets):
            allowed = [
                info
                for info in await self.models()
                if permission.allows(info.provider)
                and provider in (None, info.provider)
                and not info.embeds
            ]
            route = build_route(allowed) if allowed else route
        return permission.restrict(route)

    async def models(self) -> list[ModelInfo]:
        """The models of all providers; a provider that fails to list them is logged and omitted."""
        return await self._directory.models()

    def find_problem(self, model: str) -> ApplianceError | None:
        """The error for a model that is not listed, but may be of a provider without a list."""
        return self._directory.find_problem(model)

    async def default_model(self) -> ModelInfo | None:
        """The model for requests that name none."""
        return next((model for model in await self.models() if model.is_default), None)

    @property
    def aliases(self) -> Mapping[str, Sequence[str]]:
        """The names of the configured routes, each with its models in order."""
        aliases = self._directory.aliases.items()
        return {name: [each.model for each in models] for name, models in aliases}

    def providers(self) -> list[ProviderStatus]:
        return self._directory.statuses()

    def queue_load(self) -> tuple[int, int]:
        """The numbers of running and of waiting completions."""
        return self._queue.running, self._queue.waiting

    def cache_stats(self) -> CacheStats:
        return self._services.cache.stats()

    async def load(self, route: Route) -> None:
        """Make the model ready; raises UnknownModel or ModelUnavailable with the reason."""
        await self._directory.provider(route.provider).load(route.model)

    async def count_tokens(self, route: Route, messages: Sequence[Message], owner: str = "") -> int:
        """The exact number of a task's prompt tokens; loads the model if needed."""
        request = CompletionRequest(model="", messages=tuple(messages), owner=owner)
        permission = await self._permission(caller_of_owner(owner), ())
        return await self.count_request_tokens(permission.restrict(route), request)

    async def count_request_tokens(self, route: Route, request: CompletionRequest) -> int:
        """The exact number of prompt tokens of this request for the route's first model."""
        provider = self._directory.provider(route.provider)
        return await provider_boundary.call_provider(
            route, provider.count_tokens(replace(request, model=route.model))
        )

    async def embed(self, route: Route, request: EmbeddingRequest, caller: Caller) -> Embeddings:
        """Embeddings of texts. Raises InvalidInput for a model that makes none."""
        caller = await self._shares.resolve_username(caller)
        call = Call(
            route=route,
            estimate=token_estimate.estimate_texts(request.texts),
            caller=caller,
            kind=UsageKind.EMBEDDING,
        )
        return await EmbeddingRun(call, request, self._services).run()

    def run(self, call: CompletionCall) -> CompletionRun:
        """One completion, which begins when it is started or read."""
        return CompletionRun(call, self._services)

    async def start_for_task(
        self,
        route: Route,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None,
        owner: str = "",
        *,
        priority: Priority = Priority.NORMAL,
        shared_system: bool = False,
        calls: TaskCalls | None = None,
    ) -> CompletionRun:
        """One completion of a task, to be read and closed; its report says which model answered.

        `calls` is that of the attempt at the task, by which each usage record is unique.
        `shared_system`: the first system message is the appliance's own, the same for all users.
        """
        request = CompletionRequest(
            model="",
            messages=tuple(messages),
            sampling=sampling,
            max_tokens=max_tokens,
            owner=owner,
            shared_system=shared_system,
        )
        caller = await self._shares.resolve_username(caller_of_owner(owner))
        permission = await self._permission(caller, ())
        return self.run(
            CompletionCall(
                route=permission.restrict(route),
                request=request,
                estimate=token_estimate.estimate_completion(request),
                caller=caller,
                kind=UsageKind.TASK,
                priority=priority,
                task_calls=calls,
            )
        )

    async def settle_task(self, tx: Transaction, task: Task, end: object) -> None:
        """Store the usage of a task in the transaction that ends it, however it ends."""
        del end
        await self._usage.settle_task(tx, task.id)

    async def drain(self, grace_s: float) -> None:
        """Wait `grace_s` for what runs, then end the rest with ServerStopping."""
        await self._services.deadlines.drain(grace_s, ServerStopping)

    async def close(self) -> None:
        """Close all providers, then store the usage. Every provider is closed even if one fails."""
        try:
            await self._directory.close()
        finally:
            await self._usage.close()

    async def _permission(self, caller: Caller, labels: Sequence[str]) -> Permission:
        caller = await self._shares.resolve_username(caller)
        return self._data_policy.permission_for(caller.username, labels, self._is_local)

    def _is_local(self, provider: str) -> bool:
        return self._directory.provider(provider).status().local


def caller_of_owner(owner: str) -> Caller:
    """The caller of an owner key ("user:7")."""
    user_id = owner.removeprefix(_USER_PREFIX)
    return Caller(owner, int(user_id) if user_id.isdecimal() else None)
