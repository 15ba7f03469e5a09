"""The routes that belong to no dialect."""

from litestar import Router

from appliance.api.http.dialect import Dialect
from appliance.api.http.errors import render_standard_error
from appliance.api.system.health import alive, comprehensive, health, health_head, readiness
from appliance.api.system.metrics import cache, metrics

DIALECT = Dialect("system", "", render_standard_error)


def router() -> Router:
    """The router of the paths outside the dialects."""
    return Router(
        "/",
        route_handlers=[health, health_head, alive, readiness, metrics, cache, comprehensive],
        tags=["System"],
    )
