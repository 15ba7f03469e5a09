"""Errors and headers below /v1/messages."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Headers, Problem
from appliance.api.http.errors import problem_response
from appliance.api.http.rate_limit import RateStatus
from appliance.api.http.request_context import request_id

PREFIX = "/v1/messages"
REQUEST_ID = "request-id"

_INVALID = "invalid_request_error"
_TYPES = {
    400: _INVALID,
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    405: _INVALID,
    409: _INVALID,
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
# Statuses that differ from those of the other dialects.
_STATUS_BY_CODE = {"MODEL_NOT_FOUND": 404, "QUEUE_FULL": 529}


def render_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The response to a failed request."""
    adjusted = _with_anthropic_status(problem)
    headers = {**adjusted.headers, REQUEST_ID: request_id(request.scope)}
    return problem_response(error_body(request, adjusted), replace(adjusted, headers=headers))


def error_body(request: Request[Any, Any, Any], problem: Problem) -> dict[str, Any]:
    """The error body; `details` is an extension."""
    adjusted = _with_anthropic_status(problem)
    error = {
        "type": _TYPES.get(adjusted.status, "api_error"),
        "message": adjusted.message,
        "details": {"error_code": adjusted.code.lower(), **adjusted.details},
    }
    return {"type": "error", "error": error, "request_id": request_id(request.scope)}


def rate_limit_headers(window: RateStatus, elapsed_s: float) -> Headers:  # noqa: ARG001
    """The caller's rate limit."""
    reset = datetime.fromtimestamp(window.reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        (b"anthropic-ratelimit-requests-limit", b"%d" % window.limit),
        (b"anthropic-ratelimit-requests-remaining", b"%d" % window.remaining),
        (b"anthropic-ratelimit-requests-reset", reset.encode()),
    ]


def _with_anthropic_status(problem: Problem) -> Problem:
    return replace(problem, status=_STATUS_BY_CODE.get(problem.code, problem.status))


DIALECT = Dialect(PREFIX, render_error, rate_limit_headers)
