"""Which models there are, and which of them a name means."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence

from msgspec.structs import replace

from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.errors import (
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    UnknownModel,
)
from appliance.inference.request.route import (
    NAMES_SHOWN,
    Candidate,
    Route,
    in_order,
    listed,
    named,
    path,
    route_of,
)
from appliance.inference.routing.model_listing import Listing
from appliance.spi.provider import Provider

AUTO = "auto"

DefaultModel = Callable[[], Awaitable[str | None]]


class Directory:
    """Models by name: an alias of the box's routes, a model's name, or "provider/name".

    Where several providers have a model of one name, that of this box is meant.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        default_model: DefaultModel,
        aliases: Mapping[str, Sequence[Candidate]],
        chance: random.Random | None = None,
    ) -> None:
        self._providers = dict(providers)
        self._listings = [Listing(each) for each in self._providers.values()]
        self._near = [listing for listing in self._listings if listing.local]
        self._far = [listing for listing in self._listings if not listing.local]
        self._default_model = default_model
        self._aliases = dict(aliases)
        self._chance = chance or random.Random()  # noqa: S311

    @property
    def aliases(self) -> Mapping[str, Sequence[Candidate]]:
        return self._aliases

    def provider(self, name: str) -> Provider:
        """Raises InvalidInput, which names those that exist."""
        try:
            return self._providers[name]
        except KeyError:
            names = ", ".join(sorted(self._providers))
            exist = f"this box has: {names}" if names else "this box has no provider"
            raise InvalidInput.at("provider", f"no {name!r} here; {exist}") from None

    def statuses(self) -> list[ProviderStatus]:
        return [provider.status() for provider in self._providers.values()]

    async def resolve(self, model: str | None, provider: str | None) -> Route:
        """What the name leads to; None and "auto" mean the default.

        Raises InvalidInput for an unknown provider, UnknownModel naming what exists,
        and ModelUnavailable where there is no model at all.
        """
        if provider is not None:
            self.provider(provider)
        meant = await self._default_model() if model in (None, AUTO) else model
        everything = await self._enough_for(meant, provider)
        offered = [info for info in everything if provider in (None, info.provider)]
        if model is None or (model == AUTO and not self._leads_to(AUTO, offered)):
            return await self._default(everything, offered, provider)
        if not offered:
            raise self._nothing_offered(provider)
        offers = self._leads_to(model, offered)
        if not offers:
            raise self._unknown(model, offered)
        return route_of(offers)

    async def models(self) -> list[ModelInfo]:
        """Every model of every provider; a provider that fails to list is left out and logged."""
        wanted = await self._default_model()
        offered = await _all_of(self._listings)
        chosen = named(wanted, offered) if wanted else None
        return [replace(info, is_default=info is chosen) for info in offered]

    async def _enough_for(self, name: str | None, provider: str | None) -> list[ModelInfo]:
        """The models of this box where the name is one of theirs: no far provider is asked then."""
        offered = [info for listing in self._near for info in await listing.models()]
        own = [info for info in offered if provider in (None, info.provider)]
        if name and name not in self._aliases and named(name, own):
            return offered
        return offered + await _all_of(self._far)

    def _leads_to(self, name: str, offered: Sequence[ModelInfo]) -> list[ModelInfo]:
        """The models of an alias that exist now, in the order to try; or the model itself."""
        if name not in self._aliases:
            info = named(name, offered)
            return [info] if info else []
        found: list[ModelInfo] = []
        for candidate in in_order(self._aliases[name], self._chance):
            info = named(candidate.model, offered)
            if info is not None and info not in found:
                found.append(info)
        return found

    async def _default(
        self, everything: Sequence[ModelInfo], offered: Sequence[ModelInfo], provider: str | None
    ) -> Route:
        """The default's route; the first model where none is set, or not of that provider."""
        if not offered:
            raise self._nothing_offered(provider)
        wanted = await self._default_model()
        leads_to = self._leads_to(wanted, everything) if wanted else []
        offers = [info for info in leads_to if provider in (None, info.provider)]
        if not offers and wanted and provider is None:
            raise ModelUnavailable(
                f"the default model {wanted!r} does not exist here; there are: "
                f"{listed(offered, self._aliases)}. The administrator sets another with "
                "`monkey-coder model add FILE --default`"
            )
        return route_of(offers or [_first_that_writes(offered)])

    def _unknown(self, name: str, offered: Sequence[ModelInfo]) -> UnknownModel:
        return UnknownModel(
            f"model {name!r} does not exist here; there are: {listed(offered, self._aliases)}",
            details={"model": name, "available": [path(info) for info in offered[:NAMES_SHOWN]]},
        )

    def _nothing_offered(self, provider: str | None) -> ModelUnavailable:
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
        """Close every provider, also where closing another one failed."""
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


async def _all_of(listings: Sequence[Listing]) -> list[ModelInfo]:
    """What they all offer; those that have to be asked are waited for at the same time."""
    stale = [listing for listing in listings if not listing.fresh]
    if stale:
        await asyncio.gather(*(listing.models() for listing in stale))
    return [info for listing in listings for info in listing.known]


def _first_that_writes(offered: Sequence[ModelInfo]) -> ModelInfo:
    return next((info for info in offered if not info.embeds), offered[0])
