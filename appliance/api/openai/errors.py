"""Errors and headers as clients of OpenAI's API read them, whichever of its paths they call."""

import re
import time
from dataclasses import replace
from typing import Any

from litestar import Request, Response

from appliance.api.http import request_context
from appliance.api.http.dialect import Dialect, FieldNames, Headers, Problem
from appliance.api.http.errors import problem_response
from appliance.api.http.rate_limit import RateStatus

_RESPONSES = "/v1/responses"
# All of it but other dialects' paths: clients call routes of OpenAI's that are not here.
_PREFIX = "/v1"
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    424: "invalid_request_error",
    426: "invalid_request_error",
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
_NO_MODEL, _TOO_LONG = "MODEL_NOT_FOUND", "CONTEXT_LENGTH_EXCEEDED"
_OVERFLOW = "maximum context length"
_PARAMS = {_NO_MODEL: "model", _TOO_LONG: "messages"}
_NOT_FOUND = 404
_SCHEMA, _GRAMMAR = re.compile(r"^output\.schema\b"), re.compile(r"^output\.grammar\b")
_CHAT_NAMES: FieldNames = (
    (_SCHEMA, "response_format.json_schema.schema"),
    (_GRAMMAR, "grammar"),
    (re.compile(r"^(tools\[\d+\])\.(?=name\b|description\b|parameters\b)"), r"\1.function."),
)
_RESPONSE_NAMES: FieldNames = (
    (_SCHEMA, "text.format.schema"),
    # The messages are not the items of the input: instructions are one, calls and outputs merge.
    (re.compile(r"^messages\b.*"), "input"),
)
_SHOWN_ELSEWHERE = frozenset({"field", "reason"})  # in the message and in `param`


def render_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The response; the code of an unmatched path is unknown_url."""
    problem = adapt_problem(request, problem)
    body = error_body(problem)
    if problem.status == _NOT_FOUND and request_context.path_template(request.scope) is None:
        body["error"]["code"] = "unknown_url"
    return problem_response(body, problem)


def adapt_problem(request: Request[Any, Any, Any], problem: Problem) -> Problem:
    """The problem with 404 for an unknown model, and in the words that clients search for.

    The field is named as the client of this path names it.
    """
    is_response = request.scope["path"].startswith(_RESPONSES)
    problem = problem.with_names(_RESPONSE_NAMES if is_response else _CHAT_NAMES)
    if problem.code == _NO_MODEL:
        return replace(problem, status=_NOT_FOUND)
    if problem.code == _TOO_LONG:
        details = ({"field": "input"} if is_response else {}) | dict(problem.details)
        return replace(problem, message=_describe_overflow(problem), details=details)
    return problem


def _describe_overflow(problem: Problem) -> str:
    counts = problem.details
    prompt, context = counts.get("prompt_tokens"), counts.get("context_tokens")
    if prompt is None or context is None:
        known = problem.message
        return known if _OVERFLOW in known else f"The messages exceed the {_OVERFLOW}: {known}"
    answer = counts.get("max_tokens") if prompt < context else None
    field = counts.get("field")
    requested = f"{field or 'your messages'} resulted in {prompt} tokens"
    if answer:
        requested = (
            f"you requested {prompt + answer} tokens ({prompt} in the messages, {answer} in the "
            "completion)"
        )
    return (
        f"This model's {_OVERFLOW} is {context} tokens. However, {requested}. "
        f"Please reduce the length of {field or 'the messages'}."
    )


def error_body(problem: Problem) -> dict[str, Any]:
    """{"error": {message, type, param, code}}, and `details` if there are more.

    `param` is the invalid field, if known.
    """
    error: dict[str, Any] = {
        "message": problem.message,
        "type": _TYPES.get(problem.status, "server_error"),
        "param": problem.details.get("field", _PARAMS.get(problem.code)),
        "code": _CODES.get(problem.code, problem.code.lower()),
    }
    if more := {
        name: value for name, value in problem.details.items() if name not in _SHOWN_ELSEWHERE
    }:
        error["details"] = more
    return {"error": error}


def rate_limit_headers(window: RateStatus, elapsed_s: float) -> Headers:
    """Headers of every response of this dialect."""
    return [
        (b"openai-version", b"2020-10-01"),
        (b"openai-processing-ms", b"%d" % round(elapsed_s * 1000)),
        (b"x-ratelimit-limit-requests", b"%d" % window.limit),
        (b"x-ratelimit-remaining-requests", b"%d" % window.remaining),
        (b"x-ratelimit-reset-requests", b"%ds" % max(0, window.reset - int(time.time()))),
    ]


DIALECT = Dialect("openai", _PREFIX, render_error, rate_limit_headers)
