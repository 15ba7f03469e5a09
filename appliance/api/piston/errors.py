"""Errors below /api/v2."""

from typing import Any

from litestar import Request, Response

from appliance.api.http.dialect import Dialect, Problem
from appliance.api.http.errors import problem_response

PREFIX = "/api/v2"


def render_error(request: Request[Any, Any, Any], problem: Problem) -> Response[Any]:  # noqa: ARG001
    """{"message": …}"""
    return problem_response({"message": problem.message}, problem)


DIALECT = Dialect("piston", PREFIX, render_error)
