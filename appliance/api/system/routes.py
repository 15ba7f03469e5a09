"""The routes that belong to no dialect."""

from litestar import Router

from appliance.api.http.auth import require_administrator
from appliance.api.http.dialect import Dialect
from appliance.api.http.errors import render_standard_error
from appliance.api.system.health import alive, comprehensive, health, health_head, readiness
from appliance.api.system.metrics import cache, metrics

DIALECT = Dialect("", render_standard_error)


def router(*, metrics_public: bool) -> Router:
    """Health is public; metrics and load are, too, if `metrics_public`, else for administrators."""
    guards = [] if metrics_public else [require_administrator]
    return Router(
        "/",
        route_handlers=[
            health, health_head, alive, readiness,
            Router("/", route_handlers=[metrics, cache, comprehensive], guards=guards),
        ],
        tags=["System"],
    )  # fmt: skip
