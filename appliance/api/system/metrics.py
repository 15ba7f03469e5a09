"""/metrics for Prometheus, and the figures of the cache."""

from litestar import get
from msgspec import Struct

from appliance import telemetry
from appliance.api.http.dependencies import ServicesDependency
from appliance.api.openapi import ANYBODY


@get("/metrics", media_type="text/plain; version=0.0.4; charset=utf-8", security=ANYBODY)
async def metrics(services: ServicesDependency) -> bytes:
    """Counters and gauges in Prometheus' text format."""
    queue = await services.tasks.queue()
    telemetry.observe_queue(queue.queued, queue.running)
    return telemetry.render_metrics()


class CacheAnswer(Struct):
    """`size` counts answers; `evictions` made room, `expired_removals` were too old."""

    size: int
    max_size: int
    hit_rate_percent: float
    total_hits: int
    total_misses: int
    evictions: int
    expired_removals: int
    bytes: int
    max_bytes: int


@get("/metrics/cache", security=ANYBODY, sync_to_thread=False)
def cache(services: ServicesDependency) -> CacheAnswer:
    """How the cache of completions does since the start of the box."""
    figures = services.catalog.cache()
    return CacheAnswer(
        size=figures.entries,
        max_size=figures.max_entries,
        hit_rate_percent=round(100 * figures.hit_rate, 1),
        total_hits=figures.hits,
        total_misses=figures.misses,
        evictions=figures.evictions,
        expired_removals=figures.expired,
        bytes=figures.bytes,
        max_bytes=figures.max_bytes,
    )
