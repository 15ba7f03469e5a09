"""A provider's list of models, cached so that a slow remote provider delays nobody for long."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from appliance.domain.models import ModelInfo
from appliance.errors import (
    ApplianceError,
    ModelUnavailable,
    ProviderFailed,
    ProviderMisconfigured,
)
from appliance.inference.request import provider_boundary
from appliance.inference.request.deadline import Deadlines
from appliance.spi.provider import Provider

FRESH_S = 1.0
MAX_WAIT_S = 2.0
FAILURE_PAUSE_S = 15.0
_TIMEOUT_S = 30.0
_TIMED_OUT = f"no list within {_TIMEOUT_S:g} s"
_log = structlog.get_logger()


class ModelListing:
    """One provider's models. `clock` gives seconds.

    A local provider is asked each time. A remote one is asked at most once in FRESH_S, or
    FAILURE_PAUSE_S after a failure. A caller waits at most MAX_WAIT_S for it; until it answers,
    and if it fails, the last list is used.
    """

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._clock = clock
        self._deadlines = Deadlines(_TIMEOUT_S, _TIMED_OUT)
        self.last_models: Sequence[ModelInfo] = ()
        self._next_refresh_at = float("-inf")
        self._refresh: asyncio.Task[None] | None = None
        self._refresh_started_at = 0.0
        self._failure: ApplianceError | None = None
        self._was_listed = False
        self.local = provider.status().local

    @property
    def is_fresh(self) -> bool:
        """Whether `models` returns without waiting for a remote provider."""
        return not self.local and self._refresh is None and self._clock() < self._next_refresh_at

    @property
    def provider_name(self) -> str:
        return self._provider.name

    def find_problem(self, model: str) -> ApplianceError | None:
        """Why a remote provider has never listed its models, so that it could have `model`."""
        if self.local or self._was_listed:
            return None
        if isinstance(self._failure, ProviderMisconfigured):
            return self._failure
        reason = f" ({self._failure.message})" if self._failure else ""
        return ModelUnavailable(
            f"model {model!r} can't be found now: the provider {self.provider_name!r} can't be "
            f"reached{reason}; retry later",
            details={"model": model, "provider": self.provider_name},
            retry_after=max(1.0, self._next_refresh_at - self._clock()),
        )

    async def models(self) -> Sequence[ModelInfo]:
        """Empty if a provider has never answered; failures are logged."""
        if self.local:
            self.last_models = await self._list_models() or ()
        else:
            await self._refresh_remote()
        return self.last_models

    async def close(self) -> None:
        """Cancel a refresh that is under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})

    async def _refresh_remote(self) -> None:
        now = self._clock()
        if self._refresh is None and now >= self._next_refresh_at:
            self._refresh_started_at = now
            self._refresh = asyncio.create_task(self._run_refresh(), name="model listing")
        if self._refresh is not None:
            remaining_s = self._refresh_started_at + MAX_WAIT_S - now
            if remaining_s > 0:
                await asyncio.wait({self._refresh}, timeout=remaining_s)

    async def _run_refresh(self) -> None:
        try:
            models = await self._list_models()
        finally:
            self._refresh = None
        if models is not None:
            self._was_listed, self.last_models = True, models
        self._next_refresh_at = self._clock() + (FAILURE_PAUSE_S if models is None else FRESH_S)

    async def _list_models(self) -> Sequence[ModelInfo] | None:
        """None if it failed."""
        deadline = self._deadlines.start()
        try:
            return await deadline.run(lambda: provider_boundary.list_models(self._provider))
        except TimeoutError:
            failure = ProviderFailed(_TIMED_OUT)
        except ApplianceError as error:
            failure = error
        finally:
            deadline.close()
        self._failure = failure
        _log.warning("provider_models_failed", provider=self.provider_name, reason=failure.message)
        return None
