"""Errors and headers below /v1/messages."""

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, FieldNames, Headers, Problem
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
    408: "timeout_error",
    409: _INVALID,
    413: "request_too_large",
    424: _INVALID,
    426: _INVALID,
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_NAMES: FieldNames = (
    (re.compile(r"^output\.schema\b"), "output_config.format.schema"),
    (re.compile(r"^(tools\[\d+\])\.parameters\b"), r"\1.input_schema"),
)
_TOO_LONG, _OVERFLOW = "CONTEXT_LENGTH_EXCEEDED", "prompt is too long"
# Statuses that differ from those of the other dialects.
_STATUS_BY_CODE = {"MODEL_NOT_FOUND": 404, "QUEUE_FULL": 529}


def render_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The response to a failed request."""
    adjusted = _adapt_problem(problem)
    headers = {**adjusted.headers, REQUEST_ID: request_id(request.scope)}
    return problem_response(error_body(request, problem), replace(adjusted, headers=headers))


def error_body(request: Request[Any, Any, Any], problem: Problem) -> dict[str, Any]:
    """The error body; `details` is an extension."""
    adjusted = _adapt_problem(problem)
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


def _adapt_problem(problem: Problem) -> Problem:
    """The problem with this dialect's status, and in the words that clients search for."""
    problem = problem.with_names(_NAMES)
    message = _describe_overflow(problem) if problem.code == _TOO_LONG else problem.message
    status = _STATUS_BY_CODE.get(problem.code, problem.status)
    return replace(problem, status=status, message=message)


def _describe_overflow(problem: Problem) -> str:
    counts = problem.details
    prompt, context = counts.get("prompt_tokens"), counts.get("context_tokens")
    if prompt is None or context is None:
        known = problem.message
        return known if _OVERFLOW in known else f"{_OVERFLOW}: {known}"
    answer = counts.get("max_tokens")
    if answer and prompt < context:
        return (
            f"input length and `max_tokens` exceed context limit: {prompt} + {answer} > {context}, "
            "decrease input length or `max_tokens` and try again"
        )
    # A prompt that fills the context exactly leaves no room for an answer.
    return f"{_OVERFLOW}: {prompt} tokens > {min(context, prompt - 1)} maximum"


DIALECT = Dialect("anthropic", PREFIX, render_error, rate_limit_headers)
