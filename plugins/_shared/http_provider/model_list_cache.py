"""A provider's list of models: asked for when needed, kept for a while, bounded."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from appliance.errors import ApplianceError, ProviderFailed

MAX_MODELS = 2000
FRESH_S = 300.0
_TRUSTED_S = 3600.0
_PAUSE_S = 15.0
_LATEST = datetime(3000, 1, 1, tzinfo=UTC).timestamp()


class Offer(Struct, frozen=True):
    """A model as the provider lists it; None: it does not say.

    `output_tokens` is the longest answer, `embeds` that it makes vectors. `created_at` is
    in epoch seconds.
    """

    name: str
    description: str = ""
    context_tokens: int | None = None
    output_tokens: int | None = None
    embeds: bool = False
    created_at: float | None = None


def moment(told: Any) -> float | None:
    """Epoch seconds from a number or from a time as ISO 8601 writes it; None for all else."""
    if isinstance(told, str):
        try:
            told = datetime.fromisoformat(told).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < _LATEST:
        return None
    return float(told)


class Catalogue:
    """The list, asked for once at a time by `fetch`.

    A list is fresh for five minutes; then it is served on for up to an hour while a new
    one is asked for. After a failure nothing is asked for a quarter of a minute.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Sequence[Offer]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._offers: tuple[Offer, ...] = ()
        self._at: float | None = None
        self._failed: ApplianceError | None = None
        self._failed_at = 0.0
        self._running: asyncio.Task[None] | None = None

    async def offers(self) -> Sequence[Offer]:
        """Raises what asking failed with, where there is no list to be trusted."""
        age = self._age()
        if age < FRESH_S:
            return self._offers
        if not self._paused():
            asking = self._ask()
            if age >= _TRUSTED_S:
                await asyncio.shield(asking)
        if self._age() < _TRUSTED_S:
            return self._offers
        raise _again(self._failed)

    async def find(self, name: str) -> Offer | None:
        """What is known of a model; None where it is not listed or the list can't be had."""
        try:
            offers = await self.offers()
        except ApplianceError:
            return None
        return next((offer for offer in offers if offer.name == name), None)

    async def reach(self) -> None:
        """Return if the provider answered lately, or does now; raise what it failed with."""
        if self._paused() and self._failed is not None:
            raise _again(self._failed)
        if self._age() >= _PAUSE_S:
            await asyncio.shield(self._ask())
            if self._failed is not None:
                raise _again(self._failed)

    async def close(self) -> None:
        """Ask no more."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running

    def _age(self) -> float:
        return float("inf") if self._at is None else self._clock() - self._at

    def _paused(self) -> bool:
        return self._failed is not None and self._clock() - self._failed_at < _PAUSE_S

    def _ask(self) -> asyncio.Task[None]:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._refresh())
        return self._running

    async def _refresh(self) -> None:
        try:
            self._offers = tuple(await self._fetch())[:MAX_MODELS]
        except ApplianceError as error:
            self._failed, self._failed_at = error, self._clock()
        else:
            self._failed, self._at = None, self._clock()


def _again(error: ApplianceError | None) -> ApplianceError:
    """The error anew: one that is raised twice would grow by its traces."""
    if error is None:
        return ProviderFailed("the provider's list of models is not known yet")
    return type(error)(error.message, details=error.details, retry_after=error.retry_after)
