"""Errors and headers as clients of OpenAI's API read them, whichever of its paths they ask."""

import time
from dataclasses import replace
from typing import Any

from litestar import Request, Response

from appliance.api.http import request_context
from appliance.api.http.dialect import Headers, Problem
from appliance.api.http.errors import respond
from appliance.api.http.rate_limit import Window

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
_CODES = {
    "CONTEXT_LENGTH_EXCEEDED": "context_length_exceeded",
    "MODEL_NOT_FOUND": "model_not_found",
    "UNAUTHORIZED": "invalid_api_key",
    "INVALID_CREDENTIALS": "invalid_api_key",
    "INVALID_TOKEN": "invalid_api_key",
    "TOKEN_EXPIRED": "invalid_api_key",
    "RATE_LIMIT_EXCEEDED": "rate_limit_exceeded",
}
_NO_MODEL = "MODEL_NOT_FOUND"
_NOT_FOUND = 404
_SAID = frozenset({"field", "reason"})  # the message and `param` hold these


def error_object(problem: Problem) -> dict[str, Any]:
    """{message, type, param, code}; `param` is the field at fault where one is known."""
    return {
        "message": problem.message,
        "type": _TYPES.get(problem.status, "server_error"),
        "param": problem.details.get("field", "model" if problem.code == _NO_MODEL else None),
        "code": _CODES.get(problem.code, problem.code.lower()),
    }


def render(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """{"error": {message, type, param, code}}, with `details` where the box knows more."""
    shown = as_shown(problem)
    body = error_body(shown)
    if shown.status == _NOT_FOUND and request_context.path_template(request.scope) is None:
        body["error"]["code"] = "unknown_url"
    return respond(body, shown)


def as_shown(problem: Problem) -> Problem:
    """A model that does not exist is a missing resource in this dialect, not a bad value."""
    return replace(problem, status=_NOT_FOUND) if problem.code == _NO_MODEL else problem


def error_body(problem: Problem) -> dict[str, Any]:
    error = error_object(problem)
    if more := {name: value for name, value in problem.details.items() if name not in _SAID}:
        error["details"] = more
    return {"error": error}


def headers(window: Window, elapsed_s: float) -> Headers:
    """What every answer of this dialect carries."""
    return [
        (b"openai-version", b"2020-10-01"),
        (b"openai-processing-ms", b"%d" % round(elapsed_s * 1000)),
        (b"x-ratelimit-limit-requests", b"%d" % window.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % window.remaining),
        (b"x-ratelimit-reset-requests", b"%ds" % max(0, window.reset - int(time.time()))),
    ]
