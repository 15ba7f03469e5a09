"""Providers as the gateway asks them: whatever they raise becomes an error of ours."""

from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import TypeVar

import structlog

from appliance.domain.messages import CompletionEvent, TokenUsage
from appliance.domain.models import ModelInfo
from appliance.errors import ApplianceError, ProviderFailed
from appliance.inference.request.route import Route
from appliance.spi.provider import MeteredStream, Provider

T = TypeVar("T")
_log = structlog.get_logger()


class Asking:
    """What is raised within is an ApplianceError, or cancellation."""

    def __init__(self, route: Route) -> None:
        self._route = route

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, ApplianceError):
            return
        provider = self._route.provider
        if isinstance(error, StopAsyncIteration):
            raise ProviderFailed(
                f"{provider} ended the answer without saying why", details={"retryable": True}
            ) from None
        # A plugin is foreign code: what it raises tells clients nothing, and the log all.
        _log.exception("provider_broken", provider=provider, model=self._route.model)
        raise ProviderFailed(f"{provider} failed inside; the box's log says how") from error


async def asked(route: Route, work: Awaitable[T]) -> T:
    """What a provider answers. Raises ApplianceError, and nothing else but cancellation."""
    with Asking(route):
        return await work


async def listed(provider: Provider) -> Sequence[ModelInfo]:
    """What a provider offers. Raises ApplianceError, and nothing else but cancellation."""
    try:
        return await provider.models()
    except (ApplianceError, TimeoutError):
        raise
    except Exception as error:
        _log.exception("provider_broken", provider=provider.name)
        raise ProviderFailed("it failed inside; the box's log says how") from error


async def close(stream: AsyncIterator[CompletionEvent]) -> None:
    """End a provider's stream, if it is of a kind that can be ended."""
    end = getattr(stream, "aclose", None)
    if end is not None:
        await end()


def used(stream: AsyncIterator[CompletionEvent]) -> TokenUsage | None:
    """What a closed stream used, if its provider counted that."""
    return stream.usage if isinstance(stream, MeteredStream) else None
