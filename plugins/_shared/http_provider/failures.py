"""A provider's failures as the box's own: which error, whether to try again, what may be said.

`details` of a ProviderFailed or RateLimited: {status, retryable}; `status` is the HTTP
status, None where there was none. A provider's own words are shortened and rid of keys.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from appliance.errors import (
    ApplianceError,
    ContextLengthExceeded,
    InvalidInput,
    PayloadTooLarge,
    ProviderFailed,
    RateLimited,
    UnknownModel,
)
from plugins._shared.http_provider.error_body import Said

OVERLOADED = 529
_REFUSED_KEY = (401, 403)
_NO_MONEY, _NOT_FOUND, _TOO_LARGE, _TOO_MANY = 402, 404, 413, 429
_REQUEST = (400, _NOT_FOUND, _TOO_LARGE, 422)
_PASSING = (408, 409, 425)
_FAILED, _NOT_IMPLEMENTED = 500, 501
_REDIRECT = range(300, 400)
_MAX_RETRY_AFTER_S = 24 * 3600.0
_TOO_LONG = re.compile(
    r"context[ _](?:length|window|size)|prompt is too long|maximum context|"
    r"input token count .* exceeds|exceeds? the (?:available|maximum) .*(?:context|tokens)",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"\b\d{1,3}(?:,\d{3})+\b|\b\d{2,}\b")


def of_status(name: str, status: int, headers: Mapping[str, str], said: Said) -> ApplianceError:
    """The error for an answer with this status of the provider called `name`."""
    if reason := _reason_to_end(status, said):
        return failed(name, reason, status)
    if status in _REQUEST:
        return _request_at_fault(name, status, said)
    wait = said.retry_after if said.retry_after is not None else retry_after(headers)
    if status == _TOO_MANY:
        return _too_many(name, said, wait)
    retryable = status in _PASSING or (status >= _FAILED and status != _NOT_IMPLEMENTED)
    return failed(name, said.message or "it says no more", status, retryable, wait)


def _reason_to_end(status: int, said: Said) -> str:
    """Why nothing but the administrator can help; "" where something else may."""
    if status in _REDIRECT:
        return "it redirects elsewhere; set base_url to its final address"
    if status in _REFUSED_KEY or said.about("API_KEY_INVALID"):
        return "it refused the key or its rights; the administrator checks api_key"
    if status == _NO_MONEY or said.about("insufficient_quota", "billing_error"):
        return f"the account there has no credit: {said.message}"
    return ""


def in_stream(name: str, said: Said) -> ApplianceError:
    """The error for a failure told within a stream."""
    if said.about("rate_limit_error", "rate_limit_exceeded", "RESOURCE_EXHAUSTED"):
        return _too_many(name, said, said.retry_after)
    if said.about("invalid_request_error", "INVALID_ARGUMENT", "exceed_context_size_error"):
        return _request_at_fault(name, 400, said)
    status = OVERLOADED if said.about("overloaded_error") else None
    return failed(name, said.message or "it says no more", status, retryable=True)


def failed(
    name: str,
    reason: str,
    status: int | None = None,
    retryable: bool = False,
    wait: float | None = None,
) -> ProviderFailed:
    """A ProviderFailed of this provider, with its details."""
    answered = f" answered {status}" if status else ""
    return ProviderFailed(
        f"provider {name}{answered}: {reason}",
        details={"status": status, "retryable": retryable},
        retry_after=wait,
    )


def broken(name: str, reason: str) -> ProviderFailed:
    """An answer that stopped halfway, or is not in the form that was agreed."""
    return failed(name, reason, retryable=True)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait, from Retry-After as seconds or as an HTTP date; None if not said."""
    text = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return min(float(text), _MAX_RETRY_AFTER_S)
    try:
        moment = parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, moment - (time.time() if now is None else now)), _MAX_RETRY_AFTER_S)


def _too_many(name: str, said: Said, wait: float | None) -> ApplianceError:
    return RateLimited(
        f"provider {name} limits the requests of this box: {said.message or 'too many'}",
        details={"status": _TOO_MANY, "retryable": True},
        retry_after=wait,
    )


def _request_at_fault(name: str, status: int, said: Said) -> ApplianceError:
    if status == _NOT_FOUND:
        return _not_found(name, said)
    if status == _TOO_LARGE:
        return PayloadTooLarge(f"{name}: {said.message or 'the request is too large'}")
    message = said.message or "the provider refused the request without a reason"
    kinds = ("context_length_exceeded", "exceed_context_size_error")
    if said.about(*kinds) or _TOO_LONG.search(message):
        return ContextLengthExceeded(f"{name}: {message}", details=_counts(said))
    details = {"status": status} | ({"field": said.field, "reason": message} if said.field else {})
    return InvalidInput(f"{name}: {message}", details=details)


def _counts(said: Said) -> dict[str, int]:
    """The two counts that a message names: the prompt's is larger than the room's."""
    numbers = {int(text.replace(",", "")) for text in _NUMBER.findall(said.message)}
    if said.numbers:
        numbers = set(said.numbers)
    if len(numbers) != 2:  # noqa: PLR2004
        return {}
    return {"prompt_tokens": max(numbers), "context_tokens": min(numbers)}


def _not_found(name: str, said: Said) -> ApplianceError:
    if said.about("model_not_found") or "model" in said.message:
        return UnknownModel(f"{name}: {said.message or 'it has no such model'}")
    return failed(name, "it knows no such path; the administrator checks base_url", _NOT_FOUND)
