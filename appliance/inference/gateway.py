"""The one door to every model: finds the provider that offers a name, and asks it."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

import structlog
from msgspec import Struct
from msgspec.structs import replace

from appliance.domain.messages import CompletionEvent, CompletionRequest, Message, Sampling
from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.errors import (
    ApplianceError,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    UnknownModel,
)
from appliance.spi.provider import Provider

_log = structlog.get_logger()
_NAMES_SHOWN = 20


class Route(Struct, frozen=True):
    """Where a request goes: the provider, its own name for the model, and its state."""

    provider: str
    model: str
    info: ModelInfo


class Gateway:
    """Models by name: an alias ("starter") or provider and name ("llama_cpp/starter").

    `default_model` gives the name to use where a request names none, or None.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default_model: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._providers = dict(providers)
        self._default_model = default_model

    async def resolve(self, model: str | None, provider: str | None) -> Route:
        """Find the model; None means the default, of that provider if one is named.

        Raises InvalidInput for an unknown provider, UnknownModel naming what exists,
        and ModelUnavailable where there is no model at all.
        """
        if provider is not None and provider not in self._providers:
            raise InvalidInput.at("provider", f"no {provider!r} here; {self._providers_exist()}")
        offered = await self.models()
        if provider is not None:
            offered = [info for info in offered if info.provider == provider]
        if not offered:
            raise self._nothing_offered(provider)
        info = _named(model, offered) if model else await self._default(offered, provider)
        if info is None:
            raise _unknown(model, offered)
        return Route(info.provider, info.name, info)

    async def models(self) -> list[ModelInfo]:
        """Every model of every provider; a provider that fails to list is left out and logged."""
        found: list[ModelInfo] = []
        for name, provider in self._providers.items():
            try:
                found.extend(await provider.models())
            except ApplianceError as error:
                _log.warning("provider_models_failed", provider=name, reason=error.message)
        return await self._with_default_marked(found)

    def providers(self) -> list[ProviderStatus]:
        return [provider.status() for provider in self._providers.values()]

    async def load(self, route: Route) -> None:
        """Make the model ready; raises UnknownModel or ModelUnavailable with the reason."""
        await self._provider(route).load(route.model)

    async def count_tokens(self, route: Route, messages: Sequence[Message]) -> int:
        """The exact number of prompt tokens, loading the model if need be."""
        request = CompletionRequest(model=route.model, messages=tuple(messages))
        return await self._provider(route).count_tokens(request)

    def stream(
        self,
        route: Route,
        messages: Sequence[Message],
        sampling: Sampling,
        max_tokens: int | None,
        owner: str = "",
    ) -> AsyncIterator[CompletionEvent]:
        """One completion; see spi.Provider.stream for the events and errors."""
        request = CompletionRequest(
            model=route.model,
            messages=tuple(messages),
            sampling=sampling,
            max_tokens=max_tokens,
            owner=owner,
        )
        return self._provider(route).stream(request)

    async def close(self) -> None:
        """Close every provider, also where closing another one failed."""
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

    def _provider(self, route: Route) -> Provider:
        try:
            return self._providers[route.provider]
        except KeyError:
            raise InvalidInput.at(
                "provider", f"no {route.provider!r} here; {self._providers_exist()}"
            ) from None

    async def _default(self, offered: Sequence[ModelInfo], provider: str | None) -> ModelInfo:
        """The default model; the first one where no default is set, or not of that provider."""
        marked = next((info for info in offered if info.is_default), None)
        wanted = await self._default_model()
        if marked is None and wanted and provider is None:
            raise ModelUnavailable(
                f"the default model {wanted!r} does not exist here; there are: "
                f"{_listed(offered)}. The administrator sets another with "
                "`monkey-coder model add FILE --default`"
            )
        return marked or offered[0]

    async def _with_default_marked(self, offered: list[ModelInfo]) -> list[ModelInfo]:
        wanted = await self._default_model()
        chosen = _named(wanted, offered) if wanted else None
        return [replace(info, is_default=info is chosen) for info in offered]

    def _providers_exist(self) -> str:
        names = ", ".join(sorted(self._providers))
        return f"this box has: {names}" if names else "this box has no provider"

    def _nothing_offered(self, provider: str | None) -> ModelUnavailable:
        problems = [
            f"{status.name}: {status.problem}"
            for status in self.providers()
            if status.problem and provider in (None, status.name)
        ]
        where = f" of provider {provider!r}" if provider else ""
        why = f" ({'; '.join(problems)})" if problems else ""
        return ModelUnavailable(
            f"no model{where} is configured{why}; the administrator adds one with "
            "`monkey-coder model add FILE-or-URL`"
        )


def _named(name: str, offered: Iterable[ModelInfo]) -> ModelInfo | None:
    """The model of that alias, or of that provider and name."""
    models = list(offered)
    by_alias = [info for info in models if info.name == name]
    by_path = [info for info in models if _path(info) == name]
    return next(iter(by_alias + by_path), None)


def _unknown(name: str | None, offered: Sequence[ModelInfo]) -> UnknownModel:
    return UnknownModel(
        f"model {name!r} does not exist here; there are: {_listed(offered)}",
        details={"model": name, "available": [_path(info) for info in offered[:_NAMES_SHOWN]]},
    )


def _listed(offered: Sequence[ModelInfo]) -> str:
    shown = ", ".join(_path(info) for info in offered[:_NAMES_SHOWN])
    more = len(offered) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _path(info: ModelInfo) -> str:
    return f"{info.provider}/{info.name}"
