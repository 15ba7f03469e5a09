"""What a provider offers, without a far one's silence holding anybody up."""

import asyncio
import time
from collections.abc import Callable, Sequence

import structlog

from appliance.domain.models import ModelInfo
from appliance.errors import ApplianceError
from appliance.inference.request import provider_boundary
from appliance.inference.request.deadline import Deadlines
from appliance.spi.provider import Provider

FRESH_S = 1.0
PATIENCE_S = 2.0
PAUSE_S = 15.0
_LIMIT_S = 30.0
_TOO_LATE = f"no list within {_LIMIT_S:g} s"
_log = structlog.get_logger()


class Listing:
    """One provider's models. `clock` gives seconds.

    A local provider is asked each time. A far one is asked at most once in FRESH_S, and
    waited for PATIENCE_S at most; then, and while it fails, what was `known` last counts.
    """

    def __init__(self, provider: Provider, clock: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._clock = clock
        self._limits = Deadlines(_LIMIT_S, _TOO_LATE)
        self.known: Sequence[ModelInfo] = ()
        self._ask_again_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None
        self._asked_at = 0.0
        self.local = provider.status().local

    @property
    def fresh(self) -> bool:
        """Whether `models` answers without asking a far provider."""
        return not self.local and self._asking is None and self._clock() < self._ask_again_at

    async def models(self) -> Sequence[ModelInfo]:
        """Empty where a provider fails to list, which is logged."""
        if self.local:
            self.known = await self._listed() or ()
        else:
            await self._asked()
        return self.known

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _asked(self) -> None:
        now = self._clock()
        if self._asking is None and now >= self._ask_again_at:
            self._asked_at = now
            self._asking = asyncio.create_task(self._refresh(), name="model listing")
        if self._asking is not None:
            left = self._asked_at + PATIENCE_S - now
            if left > 0:
                await asyncio.wait({self._asking}, timeout=left)

    async def _refresh(self) -> None:
        try:
            listed = await self._listed()
        finally:
            self._asking = None
        self.known = self.known if listed is None else listed
        self._ask_again_at = self._clock() + (PAUSE_S if listed is None else FRESH_S)

    async def _listed(self) -> Sequence[ModelInfo] | None:
        """None if it failed."""
        limit = self._limits.begin()
        try:
            return await limit.keep(lambda: provider_boundary.listed(self._provider))
        except TimeoutError:
            reason = _TOO_LATE
        except ApplianceError as error:
            reason = error.message
        finally:
            limit.close()
        _log.warning("provider_models_failed", provider=self._provider.name, reason=reason)
        return None
