"""Errors of the gateway itself, and what an error means for the next attempt."""

from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    Forbidden,
    InvalidInput,
    ModelUnavailable,
    ProviderFailed,
    QueueFull,
    RateLimited,
    UnknownModel,
)


class CircuitOpen(ModelUnavailable):
    """The provider failed repeatedly; requests to it are paused."""


class QuotaExceeded(RateLimited):
    """A quota of the provider or the model is used up."""


class ProviderQueueFull(QueueFull):
    """The provider's queue is full.

    `details`: {queue_length, queue_limit, place, expected_wait_s}.
    """


_SERVER_ERROR = 500
# The provider has not seen a request that ends with one of these.
NOT_TRIED = (CircuitOpen, QuotaExceeded, ProviderQueueFull)


def can_fall_back(error: ApplianceError) -> bool:
    """Whether the next target may be asked.

    Not if the request itself is invalid, nor if it was computed when an engine stalled: it may be
    the cause, and would then stall the next engine too.
    """
    if isinstance(error, ContextLengthExceeded | UnknownModel):
        return True
    return not (isinstance(error, InvalidInput | Forbidden) or error.details.get("stalled"))


def can_retry(error: ApplianceError) -> bool:
    """Whether the same target may be asked again."""
    if isinstance(error, NOT_TRIED):
        return False
    if error.details.get("retryable"):
        return isinstance(error, ProviderFailed | RateLimited)
    return isinstance(error, RateLimited | QueueFull) and error.retry_after is not None


def trips_breaker(error: ApplianceError) -> bool:
    """Whether the circuit breaker counts it: a passing failure of the provider itself.

    What a single request caused, or what fails in the same way until the administrator changes
    something, says nothing about the next request, or is told better by its own error.
    """
    if not isinstance(error, ProviderFailed) or not error.details.get("retryable"):
        return False
    return (error.details.get("status") or _SERVER_ERROR) >= _SERVER_ERROR
