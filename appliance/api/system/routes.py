"""Every route of the box itself."""

from litestar import Router

from appliance.api.http.auth import administrator
from appliance.api.http.dialect import Dialect
from appliance.api.http.errors import standard_response
from appliance.api.system.health import alive, health, health_head, readiness
from appliance.api.system.load import comprehensive
from appliance.api.system.metrics import cache, metrics

DIALECT = Dialect("", standard_response)


def router(*, metrics_public: bool) -> Router:
    """Health for everybody; metrics and load for everybody or for administrators."""
    guards = [] if metrics_public else [administrator]
    return Router(
        "/",
        route_handlers=[
            health, health_head, alive, readiness,
            Router("/", route_handlers=[metrics, cache, comprehensive], guards=guards),
        ],
        tags=["System"],
    )  # fmt: skip
