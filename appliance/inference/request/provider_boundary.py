"""The boundary to providers: whatever a provider raises becomes an ApplianceError.

A plugin is foreign code. Its unexpected exceptions go to the log and not to clients.
"""

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


class ProviderErrors:
    """Context manager: lets ApplianceErrors and cancellation pass, and converts the rest."""

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
                f"{provider} ended the answer without a finish reason", details={"retryable": True}
            ) from None
        _log.exception("provider_broken", provider=provider, model=self._route.model)
        raise ProviderFailed(f"{provider} failed internally; see the server's log") from error


async def call_provider(route: Route, work: Awaitable[T]) -> T:
    """The result of a provider's method. Raises ApplianceError or cancellation only."""
    with ProviderErrors(route):
        return await work


async def list_models(provider: Provider) -> Sequence[ModelInfo]:
    """The provider's models. Raises ApplianceError, TimeoutError or cancellation only."""
    try:
        return await provider.models()
    except (ApplianceError, TimeoutError):
        raise
    except Exception as error:
        _log.exception("provider_broken", provider=provider.name)
        raise ProviderFailed("it failed internally; see the server's log") from error


async def close_stream(stream: AsyncIterator[CompletionEvent]) -> None:
    """Close a provider's stream, if its type can be closed."""
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()


def prompt_usage(stream: AsyncIterator[CompletionEvent]) -> TokenUsage | None:
    """The prompt's tokens of a stream that began, if its provider tells them before the end."""
    return stream.prompt_usage if isinstance(stream, MeteredStream) else None


def measured_usage(stream: AsyncIterator[CompletionEvent]) -> TokenUsage | None:
    """The usage of a closed stream, if its provider measures it."""
    return stream.usage if isinstance(stream, MeteredStream) else None
