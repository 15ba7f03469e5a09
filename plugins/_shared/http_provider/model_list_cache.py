"""Cache of a provider's list of models: fetched on demand, refreshed in the background."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from msgspec import Struct

from appliance.errors import ApplianceError, ProviderFailed

MAX_MODELS = 2000
FRESH_FOR_S = 300.0
_MAX_AGE_S = 3600.0
_RETRY_PAUSE_S = 15.0
_MAX_TIMESTAMP = datetime(3000, 1, 1, tzinfo=UTC).timestamp()


class ListedModel(Struct, frozen=True):
    """A model in the provider's list; None: not reported.

    `output_tokens` is the maximum per completion, `embeds`: the model makes embeddings.
    `created_at` is in epoch seconds.
    """

    name: str
    description: str = ""
    context_tokens: int | None = None
    output_tokens: int | None = None
    embeds: bool = False
    created_at: float | None = None


def parse_timestamp(value: Any) -> float | None:
    """Epoch seconds from a number or an ISO 8601 string; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value < _MAX_TIMESTAMP else None


class ModelListCache:
    """The model list, fetched by at most one call of `fetch` at a time.

    A list is fresh for five minutes; a stale one is served for up to an hour while a
    refresh runs. After a failed refresh the next one waits 15 seconds.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Sequence[ListedModel]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._models: tuple[ListedModel, ...] = ()
        self._fetched_at: float | None = None
        self._error: ApplianceError | None = None
        self._error_at = 0.0
        self._refresh_task: asyncio.Task[None] | None = None

    async def models(self) -> Sequence[ListedModel]:
        """The models. Raises the error of the last refresh if the list is too old."""
        age = self._age()
        if age < FRESH_FOR_S:
            return self._models
        if not self._in_retry_pause():
            refresh = self._start_refresh()
            if age >= _MAX_AGE_S:
                await asyncio.shield(refresh)
        if self._age() < _MAX_AGE_S:
            return self._models
        raise _copy_error(self._error)

    async def find(self, name: str) -> ListedModel | None:
        """The model's entry; None if it is not listed or the list is unavailable."""
        try:
            models = await self.models()
        except ApplianceError:
            return None
        return next((model for model in models if model.name == name), None)

    async def check_reachable(self) -> None:
        """Return if the provider has answered recently or does now, else raise its error."""
        if self._in_retry_pause() and self._error is not None:
            raise _copy_error(self._error)
        if self._age() >= _RETRY_PAUSE_S:
            await asyncio.shield(self._start_refresh())
            if self._error is not None:
                raise _copy_error(self._error)

    async def close(self) -> None:
        """Cancel a running refresh."""
        if self._refresh_task is not None:
            self._refresh_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._refresh_task

    def _age(self) -> float:
        return float("inf") if self._fetched_at is None else self._clock() - self._fetched_at

    def _in_retry_pause(self) -> bool:
        return self._error is not None and self._clock() - self._error_at < _RETRY_PAUSE_S

    def _start_refresh(self) -> asyncio.Task[None]:
        if self._refresh_task is None or self._refresh_task.done():
            self._refresh_task = asyncio.create_task(self._refresh())
        return self._refresh_task

    async def _refresh(self) -> None:
        try:
            self._models = tuple(await self._fetch())[:MAX_MODELS]
        except ApplianceError as error:
            self._error, self._error_at = error, self._clock()
        else:
            self._error, self._fetched_at = None, self._clock()


def _copy_error(error: ApplianceError | None) -> ApplianceError:
    """A copy to raise: raising one exception object repeatedly makes its traceback grow."""
    if error is None:
        return ProviderFailed("the provider's model list is not available yet; retry later")
    return type(error)(error.message, details=error.details, retry_after=error.retry_after)
