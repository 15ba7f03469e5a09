"""Errors and headers below /api/v1."""

from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Headers, Problem
from appliance.api.http.errors import problem_response, standard_error_body
from appliance.api.http.rate_limit import RateStatus

PREFIX = "/api/v1"
V0_MEDIA_TYPE = "application/vnd.monkey-coder.v0+json"


def render_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The native error body; `error` is a string for clients that accept version 0."""
    body = standard_error_body(request, problem)
    if V0_MEDIA_TYPE in request.headers.get("accept", ""):
        body["error"] = problem.code.lower()
        body["details"] = problem.details
    return problem_response(body, problem)


def rate_limit_headers(window: RateStatus, elapsed_s: float) -> Headers:
    """Headers of every response of this dialect."""
    return [
        (b"x-ratelimit-limit", b"%d" % window.limit),
        (b"x-ratelimit-remaining", b"%d" % window.remaining),
        (b"x-ratelimit-reset", b"%d" % window.reset),
        (b"x-process-time", b"%.4f" % elapsed_s),
        (b"x-cache-status", b"MISS"),
    ]


DIALECT = Dialect("monkey", PREFIX, render_error, rate_limit_headers)
