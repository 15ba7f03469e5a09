"""What a failure means for the tries that could follow."""

from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    Forbidden,
    InvalidInput,
    ProviderFailed,
    QueueFull,
    RateLimited,
    UnknownModel,
)
from appliance.inference.request.errors import NOT_TRIED


def falls_back(error: ApplianceError) -> bool:
    """Whether another model may be asked: not where the request itself is at fault."""
    if isinstance(error, ContextLengthExceeded | UnknownModel):
        return True
    return not isinstance(error, InvalidInput | Forbidden)


def can_retry(error: ApplianceError) -> bool:
    """Whether the same model may be asked again."""
    if isinstance(error, NOT_TRIED):
        return False
    if error.details.get("retryable"):
        return isinstance(error, ProviderFailed | RateLimited)
    return isinstance(error, RateLimited | QueueFull) and error.retry_after is not None


def trips(error: ApplianceError) -> bool:
    """Whether it speaks against the provider's health."""
    return isinstance(error, ProviderFailed)
