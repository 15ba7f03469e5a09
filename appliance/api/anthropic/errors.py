"""How an error looks below /v1/messages, and which headers its answers carry."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Headers, Problem
from appliance.api.http.errors import respond
from appliance.api.http.rate_limit import Window
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
# Where these clients expect another status than the rest of the box gives.
_STATUS = {"MODEL_NOT_FOUND": 404, "QUEUE_FULL": 529}


def render(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The answer to a failed request."""
    told = _as_expected(problem)
    headers = {**told.headers, REQUEST_ID: request_id(request.scope)}
    return respond(error_body(request, told), replace(told, headers=headers))


def error_body(request: Request[Any, Any, Any], problem: Problem) -> dict[str, Any]:
    """The error as an object; `details` is what the box knows beyond the message."""
    told = _as_expected(problem)
    error = {
        "type": _TYPES.get(told.status, "api_error"),
        "message": told.message,
        "details": {"error_code": told.code.lower(), **told.details},
    }
    return {"type": "error", "error": error, "request_id": request_id(request.scope)}


def headers(window: Window, elapsed_s: float) -> Headers:  # noqa: ARG001
    """The caller's window of requests."""
    reset = datetime.fromtimestamp(window.reset, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [
        (b"anthropic-ratelimit-requests-limit", b"%d" % window.limit),
        (b"anthropic-ratelimit-requests-remaining", b"%d" % window.remaining),
        (b"anthropic-ratelimit-requests-reset", reset.encode()),
    ]


def _as_expected(problem: Problem) -> Problem:
    return replace(problem, status=_STATUS.get(problem.code, problem.status))


DIALECT = Dialect(PREFIX, render, headers)
