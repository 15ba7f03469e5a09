"""Maps a provider's failures to ApplianceErrors: HTTP statuses, stream errors, transport errors.

`details` of a ProviderFailed or RateLimited: {status, retryable}; `status` is the HTTP
status, None if there was no response. Messages of the provider are sanitized first, see
`error_body`.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidInput,
    PayloadTooLarge,
    ProviderFailed,
    ProviderMisconfigured,
    RateLimited,
    UnknownModel,
)
from plugins._shared.http_provider.context_overflow import is_context_overflow, parse_token_counts
from plugins._shared.http_provider.error_body import ProviderErrorBody
from plugins._shared.http_provider.sse import EventTooLong

OVERLOADED = 529
_AUTH_STATUSES = (401, 403)
_PAYMENT_REQUIRED, _NOT_FOUND, _TOO_LARGE, _TOO_MANY_REQUESTS = 402, 404, 413, 429
_CLIENT_ERRORS = (400, _NOT_FOUND, _TOO_LARGE, 422)
_TRANSIENT = (408, 409, 425)
_SERVER_ERROR, _NOT_IMPLEMENTED = 500, 501
_REDIRECTS = range(300, 400)
_MAX_RETRY_AFTER_S = 24 * 3600.0
_NO_MESSAGE = "no error message"


def from_status(
    name: str, status: int, headers: Mapping[str, str], error: ProviderErrorBody
) -> ApplianceError:
    """The error for a response with this status of the provider called `name`."""
    if reason := _permanent_reason(status, error):
        return misconfigured(name, reason, status)
    if status in _CLIENT_ERRORS:
        return _invalid_request(name, status, error)
    wait = error.retry_after if error.retry_after is not None else parse_retry_after(headers)
    if status == _TOO_MANY_REQUESTS:
        return _rate_limited(name, error, wait)
    retryable = status in _TRANSIENT or (status >= _SERVER_ERROR and status != _NOT_IMPLEMENTED)
    return provider_failed(name, error.message or _NO_MESSAGE, status, retryable, wait)


def _permanent_reason(status: int, error: ProviderErrorBody) -> str:
    """The reason if only the administrator can fix the failure, else ""."""
    if status in _REDIRECTS:
        return "it redirects to another URL; set base_url to its final URL"
    if status in _AUTH_STATUSES or error.has_kind("API_KEY_INVALID"):
        return "it rejected the API key or its permissions; check api_key"
    if status == _PAYMENT_REQUIRED or error.has_kind("insufficient_quota", "billing_error"):
        return f"its account has no credit: {error.message}"
    return ""


def from_stream_error(name: str, error: ProviderErrorBody) -> ApplianceError:
    """The error that an event of a stream reports."""
    if error.has_kind("rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"):
        return _rate_limited(name, error, error.retry_after)
    if error.has_kind("invalid_request_error", "INVALID_ARGUMENT", "exceed_context_size_error"):
        return _invalid_request(name, 400, error)
    status = OVERLOADED if error.has_kind("overloaded_error") else None
    return provider_failed(name, error.message or _NO_MESSAGE, status, retryable=True)


def from_transport_error(
    name: str,
    error: Exception,
    *,
    connect_timeout_s: float,
    read_timeout_s: float,
    timeout_s: float,
) -> ApplianceError | None:
    """The error for a failed connection or an unreadable response; None for other errors."""
    import aiohttp

    match error:
        case EventTooLong():
            return provider_failed(name, str(error))
        case aiohttp.ConnectionTimeoutError():
            reason = f"no connection within {connect_timeout_s:g} s"
        case aiohttp.SocketTimeoutError():
            reason = f"no data for {read_timeout_s:g} s"
        case TimeoutError():
            return DeadlineExceeded(
                f"provider {name}: response not complete within {timeout_s:g} s",
                details={"status": None, "retryable": False},
            )
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return misconfigured(name, "its certificate is not trusted; set ca_file")
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            reason = f"no connection: {error.strerror or 'refused'}"
        case ValueError():
            return misconfigured(name, "its URL is invalid; check base_url")
        case aiohttp.ClientError() | OSError():
            reason = "the connection broke before the response was complete"
        case _:
            return None
    return retryable_failure(name, reason)


def provider_failed(
    name: str,
    reason: str,
    status: int | None = None,
    retryable: bool = False,
    wait: float | None = None,
) -> ProviderFailed:
    """A ProviderFailed of this provider, with its details; `wait` in seconds."""
    return ProviderFailed(
        _describe(name, reason, status),
        details={"status": status, "retryable": retryable},
        retry_after=wait,
    )


def misconfigured(name: str, reason: str, status: int | None = None) -> ProviderMisconfigured:
    """A failure that lasts until the administrator changes something."""
    details = {"status": status, "retryable": False}
    return ProviderMisconfigured(_describe(name, reason, status), details=details)


def _describe(name: str, reason: str, status: int | None) -> str:
    return (
        f"provider {name} answered {status}: {reason}" if status else f"provider {name}: {reason}"
    )


def retryable_failure(name: str, reason: str) -> ProviderFailed:
    """A response that stopped halfway or does not follow the API."""
    return provider_failed(name, reason, retryable=True)


def parse_retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, from Retry-After as seconds or as an HTTP date; None without one."""
    text = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), _MAX_RETRY_AFTER_S)


def _rate_limited(name: str, error: ProviderErrorBody, wait: float | None) -> ApplianceError:
    return RateLimited(
        f"provider {name} rate-limited this server: {error.message or _NO_MESSAGE}",
        details={"status": _TOO_MANY_REQUESTS, "retryable": True},
        retry_after=wait,
    )


def _invalid_request(name: str, status: int, error: ProviderErrorBody) -> ApplianceError:
    if is_context_overflow(error):
        message = error.message or "the prompt is too long for the model"
        return ContextLengthExceeded(f"{name}: {message}", details=parse_token_counts(error))
    if status == _NOT_FOUND:
        return _not_found(name, error)
    if status == _TOO_LARGE:
        return PayloadTooLarge(f"{name}: {error.message or 'the request is too large'}")
    message = error.message or "the provider rejected the request without an error message"
    details = {"status": status} | (
        {"field": error.field, "reason": message} if error.field else {}
    )
    return InvalidInput(f"{name}: {message}", details=details)


def _not_found(name: str, error: ProviderErrorBody) -> ApplianceError:
    if error.has_kind("model_not_found") or "model" in error.message:
        return UnknownModel(f"{name}: {error.message or 'no such model'}")
    return misconfigured(name, "it has no such path; check base_url", _NOT_FOUND)
