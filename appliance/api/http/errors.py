"""Maps exceptions to responses: one table from codes to statuses, one shape per dialect."""

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
from litestar.types import Receive, Scope, Send

from appliance.api.http.dialect import Dialects, Problem
from appliance.api.http.request_context import request_id, route_options
from appliance.api.http.times import iso
from appliance.api.http.validation import locate_error
from appliance.errors import ApplianceError, InvalidInput

log = structlog.get_logger()

STATUS_BY_CODE: dict[str, int] = {
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
    "REQUEST_TIMEOUT": 408,
    "CONFLICT": 409,
    "TASK_NOT_CANCELLABLE": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "RATE_LIMIT_EXCEEDED": 429,
    "INTERNAL_ERROR": 500,
    "SETUP_ERROR": 500,
    "CONFIG_ERROR": 500,
    "STORE_ERROR": 500,
    "PLUGIN_ERROR": 500,
    # A status that no client retries, and that does not blame the client's own key.
    "PROVIDER_MISCONFIGURED": 424,
    "PROVIDER_ERROR": 502,
    "SERVICE_UNAVAILABLE": 503,
    "QUEUE_FULL": 503,
    "MODEL_UNAVAILABLE": 503,
    "SANDBOX_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

_INTERNAL_MESSAGE = "Internal error. The server's log has the details."
_MALFORMED_STATUS = "malformed_status"
_PERMANENT = frozenset({"PROVIDER_MISCONFIGURED", "MODEL_NOT_FOUND"})

ErrorHandler = Callable[[Request[Any, Any, Any], Exception], Response[Any]]


def malformed_body_status(status: int) -> dict[str, Any]:
    """The `opt` of a route that answers a malformed body with `status` instead of 400."""
    return {_MALFORMED_STATUS: status}


def status_for_code(code: str) -> int:
    """The HTTP status of an error code; 500 if unknown."""
    return STATUS_BY_CODE.get(code, 500)


def exception_handler(dialects: Dialects) -> ErrorHandler:
    """The exception handler of the application."""

    def handle(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        problem = to_problem(request, error)
        if problem.status >= 500 and not isinstance(error, ApplianceError):  # noqa: PLR2004
            log.error("a request failed", path=request.scope["path"], exc_info=error)
        return dialects.for_path(request.scope["path"]).render_error(request, problem)

    return handle


class ErrorResponse:
    """The answer to a request that is refused before routing, as an ASGI application."""

    def __init__(self, dialects: Dialects, error: ApplianceError) -> None:
        self._handle = exception_handler(dialects)
        self._error = error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request[Any, Any, Any](scope, receive, send)
        response: Any = self._handle(request, self._error)
        await response.to_asgi_response(None, request)(scope, receive, send)


def to_problem(request: Request[Any, Any, Any], error: Exception) -> Problem:
    """What a client may see of an exception: never a path, a query or a stack trace."""
    if isinstance(error, ApplianceError):
        malformed = isinstance(error, InvalidInput) and error.code == InvalidInput.code
        problem = _from_appliance_error(error)
        return replace(problem, status=_malformed_status(request)) if malformed else problem
    if isinstance(error, HTTPException):
        return _from_framework_error(request, error)
    return _problem_for_code("INTERNAL_ERROR", _INTERNAL_MESSAGE)


def standard_error_body(request: Request[Any, Any, Any], problem: Problem) -> dict[str, Any]:
    """The native shape: an error object; `detail` and `message` repeat its text."""
    return {
        "error": {"code": problem.code, "message": problem.message, "details": problem.details},
        "detail": problem.message,
        "message": problem.message,
        "timestamp": iso(time.time()),
        "request_id": request_id(request.scope),
    }


def render_standard_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The response for paths outside the dialects."""
    return problem_response(standard_error_body(request, problem), problem)


def problem_response(body: dict[str, Any], problem: Problem) -> Response[Any]:
    return Response(
        body, status_code=problem.status, headers=problem.headers, media_type="application/json"
    )


def _problem_for_code(code: str, message: str, **details: Any) -> Problem:
    return Problem(STATUS_BY_CODE[code], code, message, details)


def _from_appliance_error(error: ApplianceError) -> Problem:
    status = status_for_code(error.code)
    headers: dict[str, str] = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, ceil(error.retry_after)))
    if status == STATUS_BY_CODE["UNAUTHORIZED"]:
        headers["WWW-Authenticate"] = "Bearer"
    if error.code in _PERMANENT or error.details.get("retryable") is False:
        headers["x-should-retry"] = "false"  # read by OpenAI's and Anthropic's packages
    return Problem(status, error.code, error.message, error.details, headers)


def _from_framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Problem:
    match error:
        case ValidationException():
            return _from_validation_error(error, _malformed_status(request))
        case MethodNotAllowedException():
            return _method_not_allowed(request, error)
        case NotFoundException():
            return _problem_for_code("RESOURCE_NOT_FOUND", "No resource at this path.")
        case HTTPException(status_code=413):
            return _problem_for_code(
                "PAYLOAD_TOO_LARGE", "The body exceeds the limit of this server."
            )
        case _ if error.status_code < 500:  # noqa: PLR2004
            malformed = _problem_for_code("VALIDATION_ERROR", "The request could not be read.")
            return replace(malformed, status=_malformed_status(request))
        case _:
            return _problem_for_code("INTERNAL_ERROR", _INTERNAL_MESSAGE)


def _method_not_allowed(
    request: Request[Any, Any, Any], error: MethodNotAllowedException
) -> Problem:
    names = (error.headers or {}).get("allow", "").split(", ")
    methods = [name for name in names if name.isupper()]  # "websocket" is no method
    allowed = ", ".join(methods)
    return Problem(
        STATUS_BY_CODE["METHOD_NOT_ALLOWED"],
        "METHOD_NOT_ALLOWED",
        f"{request.method} is not allowed here; use {allowed}.",
        {"allowed": methods},
        {"Allow": allowed},
    )


def _malformed_status(request: Request[Any, Any, Any]) -> int:
    return route_options(request.scope).get(_MALFORMED_STATUS, STATUS_BY_CODE["VALIDATION_ERROR"])


def _from_validation_error(error: ValidationException, status: int) -> Problem:
    errors = cast("list[dict[str, Any]]", error.extra or [])
    problems = [_field_details(each) for each in errors]
    if not problems:
        return Problem(status, "VALIDATION_ERROR", "The request is not valid.", {})
    first = problems[0]
    details = first if len(problems) == 1 else first | {"errors": problems}
    return Problem(status, "VALIDATION_ERROR", f"{first['field']}: {first['reason']}", details)


def _field_details(error: dict[str, Any]) -> dict[str, str]:
    key = re.sub(r"^(data\b)?\.?", "", str(error.get("key", ""))).replace(".[", "[")
    field, reason = locate_error(key, str(error.get("message", "is not valid")))
    return {"field": field, "reason": reason}
