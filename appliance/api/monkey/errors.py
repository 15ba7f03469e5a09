"""How an error looks below /api/v1."""

from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Headers, Problem
from appliance.api.http.errors import respond, standard_body
from appliance.api.http.rate_limit import Window

PREFIX = "/api/v1"
V0_MEDIA_TYPE = "application/vnd.monkey-coder.v0+json"


def render(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:
    """The error as an object; as a plain string for clients that ask for version 0."""
    body = standard_body(request, problem)
    if V0_MEDIA_TYPE in request.headers.get("accept", ""):
        body["error"] = problem.code.lower()
        body["details"] = problem.details
    return respond(body, problem)


def headers(window: Window, elapsed_s: float) -> Headers:
    """What every answer of this dialect carries."""
    return [
        (b"x-ratelimit-limit", b"%d" % window.limit),
        (b"x-ratelimit-remaining", b"%d" % window.remaining),
        (b"x-ratelimit-reset", b"%d" % window.reset),
        (b"x-process-time", b"%.4f" % elapsed_s),
        (b"x-cache-status", b"MISS"),
    ]


DIALECT = Dialect(PREFIX, render, headers)
