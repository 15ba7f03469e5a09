"""/metrics for Prometheus, and statistics of the response cache."""

from litestar import get
from msgspec import Struct

from appliance import telemetry
from appliance.api.http.dependencies import ServicesDependency
from appliance.api.openapi import NO_CREDENTIALS


@get("/metrics", media_type="text/plain; version=0.0.4; charset=utf-8", security=NO_CREDENTIALS)
async def metrics(services: ServicesDependency) -> bytes:
    """Counters and gauges in Prometheus' text format."""
    queue = await services.tasks.get_queue_stats()
    telemetry.observe_queue(queue.queued, queue.running)
    return telemetry.render_metrics()


class CacheAnswer(Struct):
    """`size` is in entries; `evictions` made space, `expired_removals` were too old."""

    size: int
    max_size: int
    hit_rate_percent: float
    total_hits: int
    total_misses: int
    evictions: int
    expired_removals: int
    bytes: int
    max_bytes: int


@get("/metrics/cache", security=NO_CREDENTIALS, sync_to_thread=False)
def cache(services: ServicesDependency) -> CacheAnswer:
    """Statistics of the response cache since the start of the server."""
    figures = services.catalog.cache_stats()
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
