"""The model directory: which models exist, and the route that a name stands for."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.errors import (
    ApplianceError,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    UnknownModel,
)
from appliance.inference.request.route import (
    MAX_NAMES_SHOWN,
    Route,
    WeightedModel,
    build_route,
    find_model,
    model_path,
    order_by_weight,
    summarize_names,
)
from appliance.inference.routing.model_listing import ModelListing
from appliance.spi.provider import Provider

AUTO = "auto"

DefaultModel = Callable[[], Awaitable[str | None]]


class ModelDirectory:
    """A name is an alias (a configured route), a model's name, or "provider/name".

    Of several models with one name, the first of a local provider is taken, else the first.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default_model: DefaultModel,
        aliases: Mapping[str, Sequence[WeightedModel]],
        rng: random.Random | None = None,
    ) -> None:
        self._providers = dict(providers)
        self._listings = [ModelListing(provider) for provider in self._providers.values()]
        self._local_listings = [listing for listing in self._listings if listing.local]
        self._remote_listings = [listing for listing in self._listings if not listing.local]
        self._remote_names = {each.provider_name for each in self._remote_listings}
        self._default_model = default_model
        self._aliases = dict(aliases)
        self._rng = rng or random.Random()  # noqa: S311

    @property
    def aliases(self) -> Mapping[str, Sequence[WeightedModel]]:
        return self._aliases

    def provider(self, name: str) -> Provider:
        """Raises InvalidInput, which names the providers that exist."""
        try:
            return self._providers[name]
        except KeyError:
            names = ", ".join(sorted(self._providers)) or "none"
            raise InvalidInput.at(
                "provider", f"unknown provider {name!r}; the providers are: {names}"
            ) from None

    def statuses(self) -> list[ProviderStatus]:
        return [provider.status() for provider in self._providers.values()]

    async def resolve(self, model: str | None, provider: str | None) -> Route:
        """The route of a name; None and "auto" stand for the default model.

        Raises InvalidInput for an unknown provider, UnknownModel with the names that exist,
        and ModelUnavailable if there is no model at all, or if it may be the model of a provider
        that can't be reached.
        """
        if provider is not None:
            self.provider(provider)
        name = await self._default_model() if model in (None, AUTO) else model
        all_models = await self._list_models_for(name, provider)
        models = [info for info in all_models if provider in (None, info.provider)]
        if model is None or (model == AUTO and not self._find_models(AUTO, models)):
            return await self._default_route(all_models, models, provider)
        if not models:
            raise self.find_problem(model, provider) or self._no_models(provider)
        targets = self._find_models(model, models)
        if not targets:
            raise self.find_problem(model, provider) or self._unknown_model(model, models)
        return build_route(targets)

    def find_problem(self, model: str, provider: str | None = None) -> ApplianceError | None:
        """The error for a model that is not listed, but may be of a provider without a list."""
        names = [each.model for each in self._aliases.get(model, ())] or [model]
        for listing in self._remote_listings:
            owner = listing.provider_name
            if provider in (None, owner) and any(self._may_own(owner, name) for name in names):
                problem = listing.find_problem(model)
                if problem is not None:
                    return problem
        return None

    def _may_own(self, provider: str, name: str) -> bool:
        """Whether a name can be that of a model of this provider."""
        prefix, slash, _ = name.partition("/")
        return prefix == provider if slash and prefix in self._providers else True

    async def models(self) -> list[ModelInfo]:
        """The models of all providers; a provider that fails to list them is logged and omitted."""
        name = await self._default_model()
        models = await _list_all(self._listings)
        default = find_model(name, models) if name else None
        return [replace(info, is_default=info is default) for info in models]

    async def _list_models_for(self, name: str | None, provider: str | None) -> list[ModelInfo]:
        """All models; only the local or the remote ones if the name is one of theirs."""
        prefix, slash, _ = (name or "").partition("/")
        if name and slash and prefix in self._remote_names and name not in self._aliases:
            remote = await _list_all(self._remote_listings)
            if find_model(name, remote):
                return remote
        local = [info for listing in self._local_listings for info in await listing.models()]
        eligible = [info for info in local if provider in (None, info.provider)]
        if name and name not in self._aliases and find_model(name, eligible):
            return local
        return local + await _list_all(self._remote_listings)

    def _find_models(self, name: str, models: Sequence[ModelInfo]) -> list[ModelInfo]:
        """The existing models of an alias in the order to try them, or the model of that name."""
        if name not in self._aliases:
            info = find_model(name, models)
            return [info] if info else []
        existing: list[ModelInfo] = []
        for weighted in order_by_weight(self._aliases[name], self._rng):
            info = find_model(weighted.model, models)
            if info is not None and info not in existing:
                existing.append(info)
        return existing

    async def _default_route(
        self, all_models: Sequence[ModelInfo], models: Sequence[ModelInfo], provider: str | None
    ) -> Route:
        """The default model's route; the first model if none is set or it is another provider's."""
        name = await self._default_model()
        if not models:
            raise self.find_problem(name or AUTO, provider) or self._no_models(provider)
        existing = self._find_models(name, all_models) if name else []
        targets = [info for info in existing if provider in (None, info.provider)]
        if not targets and name and provider is None:
            raise self.find_problem(name) or ModelUnavailable(
                f"the default model {name!r} does not exist; the models are: "
                f"{summarize_names(models, self._aliases)}. The administrator sets another with "
                "`monkey-coder model add FILE --default`"
            )
        return build_route(targets or [_first_generative(models)])

    def _unknown_model(self, name: str, models: Sequence[ModelInfo]) -> UnknownModel:
        names = summarize_names(models, self._aliases)
        available = [model_path(info) for info in models[:MAX_NAMES_SHOWN]]
        return UnknownModel(
            f"model {name!r} does not exist; the models are: {names}",
            details={"model": name, "available": available},
        )

    def _no_models(self, provider: str | None) -> ModelUnavailable:
        problems = [
            f"{status.name}: {status.problem}"
            for status in self.statuses()
            if status.problem and provider in (None, status.name)
        ]
        where = f" of provider {provider!r}" if provider else ""
        why = f" ({'; '.join(problems)})" if problems else ""
        return ModelUnavailable(
            f"no model{where} is configured{why}; the administrator adds one with "
            "`monkey-coder model add FILE-or-URL`"
        )

    async def close(self) -> None:
        """Close every provider, even if closing another one fails."""
        for listing in self._listings:
            await listing.close()
        failures: list[Exception] = []
        for provider in self._providers.values():
            try:
                await provider.close()
            except Exception as error:
                failures.append(error)
        if failures:
            raise ProviderFailed("closing the providers failed") from ExceptionGroup(
                "providers", failures
            )


async def _list_all(listings: Sequence[ModelListing]) -> list[ModelInfo]:
    """The models of all listings; stale ones are refreshed concurrently."""
    stale = [listing for listing in listings if not listing.is_fresh]
    if stale:
        await asyncio.gather(*(listing.models() for listing in stale))
    return [info for listing in listings for info in listing.last_models]


def _first_generative(models: Sequence[ModelInfo]) -> ModelInfo:
    return next((info for info in models if not info.embeds), models[0])
