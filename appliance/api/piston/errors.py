"""How an error looks below /api/v2."""

from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Problem
from appliance.api.http.errors import respond

PREFIX = "/api/v2"


def render(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:  # noqa: ARG001
    """The error's text alone."""
    return respond({"message": problem.message}, problem)


DIALECT = Dialect(PREFIX, render)
