"""From whatever was raised to an answer: one map to statuses, one shape per dialect."""

import re
import time
from collections.abc import Callable
from dataclasses import replace
from math import ceil
from typing import Any, cast

import structlog
from litestar import Request, Response
from litestar.exceptions import (
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from appliance.api.http.dialect import Dialects, Problem
from appliance.api.http.request_context import request_id, route_options
from appliance.api.http.times import iso
from appliance.api.http.validation import located
from appliance.errors import ApplianceError, InvalidInput

log = structlog.get_logger()

STATUS: dict[str, int] = {
    "VALIDATION_ERROR": 400,
    "CONTEXT_LENGTH_EXCEEDED": 400,
    "MODEL_NOT_FOUND": 400,
    "UNAUTHORIZED": 401,
    "INVALID_CREDENTIALS": 401,
    "INVALID_TOKEN": 401,
    "TOKEN_EXPIRED": 401,
    "FORBIDDEN": 403,
    "RESOURCE_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "CONFLICT": 409,
    "TASK_NOT_CANCELLABLE": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "SETUP_ERROR": 500,
    "CONFIG_ERROR": 500,
    "STORE_ERROR": 500,
    "PLUGIN_ERROR": 500,
    "PROVIDER_ERROR": 502,
    "SERVICE_UNAVAILABLE": 503,
    "QUEUE_FULL": 503,
    "MODEL_UNAVAILABLE": 503,
    "SANDBOX_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_HIDDEN = "Something went wrong on the box. The administrator finds the reason in its log."
_MALFORMED_STATUS = "malformed_status"

ErrorHandler = Callable[[Request[Any, Any, Any], Exception], Response[Any]]


def malformed_answers(status: int) -> dict[str, Any]:
    """The `opt` of a route that answers a malformed body with another status than 400."""
    return {_MALFORMED_STATUS: status}


def status_of(code: str) -> int:
    """The HTTP status of an error code; an unknown one is the box's own fault."""
    return STATUS.get(code, 500)


def handler(dialects: Dialects) -> ErrorHandler:
    """The application's only exception handler."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        problem = problem_of(request, error)
        if problem.status >= 500 and not isinstance(error, ApplianceError):  # noqa: PLR2004
            log.error("a request failed", path=request.scope["path"], exc_info=error)
        return dialects.of(request.scope["path"]).render(request, problem)

    return handle


def problem_of(request: Request[Any, Any, Any], error: Exception) -> Problem:
    """What a client may know of an exception: never a path, a query or a stack."""
    if isinstance(error, ApplianceError):
        malformed = isinstance(error, InvalidInput) and error.code == InvalidInput.code
        found = _of_appliance(error)
        return replace(found, status=_malformed_status(request)) if malformed else found
    if isinstance(error, HTTPException):
        return _of_framework(request, error)
    return _problem("INTERNAL_ERROR", _HIDDEN)


def standard_body(request: Request[Any, Any, Any], problem: Problem) -> dict[str, Any]:
    """The box's own shape: the error as an object, and its text where simple clients look."""
    return {
        "error": {"code": problem.code, "message": problem.message, "details": problem.details},
        "detail": problem.message,
        "message": problem.message,
        "timestamp": iso(time.time()),
        "request_id": request_id(request.scope),
    }


def standard_response(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The answer of paths that belong to no dialect."""
    return respond(standard_body(request, problem), problem)


def respond(body: dict[str, Any], problem: Problem) -> Response[Any]:
    return Response(
        body, status_code=problem.status, headers=problem.headers, media_type="application/json"
    )


def _problem(code: str, message: str, **details: Any) -> Problem:
    return Problem(STATUS[code], code, message, details)


def _of_appliance(error: ApplianceError) -> Problem:
    status = status_of(error.code)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    if status == STATUS["UNAUTHORIZED"]:
        headers["WWW-Authenticate"] = "Bearer"
    return Problem(status, error.code, error.message, error.details, headers)


def _of_framework(request: Request[Any, Any, Any], error: HTTPException) -> Problem:
    match error:
        case ValidationException():
            return _of_validation(error, _malformed_status(request))
        case MethodNotAllowedException():
            return _of_method(request, error)
        case NotFoundException():
            return _problem("RESOURCE_NOT_FOUND", "There is nothing at this address.")
        case HTTPException(status_code=413):
            return _problem("PAYLOAD_TOO_LARGE", "The body is larger than this box accepts.")
        case _ if error.status_code < 500:  # noqa: PLR2004
            unreadable = _problem("VALIDATION_ERROR", "The request could not be read.")
            return replace(unreadable, status=_malformed_status(request))
        case _:
            return _problem("INTERNAL_ERROR", _HIDDEN)


def _of_method(request: Request[Any, Any, Any], error: MethodNotAllowedException) -> Problem:
    allowed = (error.headers or {}).get("allow", "")
    return Problem(
        STATUS["METHOD_NOT_ALLOWED"],
        "METHOD_NOT_ALLOWED",
        f"{request.method} is not possible here; use {allowed}.",
        {"allowed": [name for name in allowed.split(", ") if name]},
        {"Allow": allowed},
    )


def _malformed_status(request: Request[Any, Any, Any]) -> int:
    return route_options(request.scope).get(_MALFORMED_STATUS, STATUS["VALIDATION_ERROR"])


def _of_validation(error: ValidationException, status: int) -> Problem:
    found = cast("list[dict[str, Any]]", error.extra or [])
    problems = [_field_problem(each) for each in found]
    if not problems:
        return Problem(status, "VALIDATION_ERROR", "The request is not valid.", {})
    first = problems[0]
    details = first if len(problems) == 1 else first | {"errors": problems}
    return Problem(status, "VALIDATION_ERROR", f"{first['field']}: {first['reason']}", details)


def _field_problem(found: dict[str, Any]) -> dict[str, str]:
    key = re.sub(r"^(data\b)?\.?", "", str(found.get("key", ""))).replace(".[", "[")
    field, reason = located(key, str(found.get("message", "is not valid")))
    return {"field": field, "reason": reason}
