"""/metrics for Prometheus."""

from litestar import get

from appliance import telemetry
from appliance.api.dependencies import ServicesDependency
from appliance.api.openapi import ANYBODY


@get("/metrics", media_type="text/plain; version=0.0.4; charset=utf-8", security=ANYBODY)
async def metrics(services: ServicesDependency) -> bytes:
    """Counters and gauges in Prometheus' text format."""
    queue = await services.tasks.queue()
    telemetry.observe_queue(queue.queued, queue.running)
    return telemetry.render_metrics()
