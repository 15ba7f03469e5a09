"""/health/comprehensive: how the box is, and how busy."""

from litestar import Response, get
from msgspec import Struct, structs

from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.openapi import ANYBODY
from appliance.api.system.health import FullHealthAnswer, full_answer, status_code


class TaskLoad(Struct):
    """Tasks; the wait is what one accepted now would have, null where it is not known yet."""

    running: int
    workers: int
    waiting: int
    limit: int
    limit_per_user: int
    expected_wait_seconds: float | None


class CompletionLoad(Struct):
    """Completions of all models. `limit` is how many may wait for each provider."""

    running: int
    waiting: int
    limit: int
    limit_per_user: int


class ComprehensiveAnswer(FullHealthAnswer):
    """`tasks` is null where the store does not answer."""

    tasks: TaskLoad | None
    completions: CompletionLoad


@get("/health/comprehensive", security=ANYBODY)
async def comprehensive(
    services: ServicesDependency, settings: SettingsDependency
) -> Response[ComprehensiveAnswer]:
    """Every part of the box, and how much runs and waits."""
    now, load = await services.health.health(), await services.health.load()
    stats, queue, gate = load.tasks, settings.scheduler, settings.gateway
    tasks = stats and TaskLoad(
        running=stats.running,
        workers=stats.workers,
        waiting=stats.queued,
        limit=queue.queue_limit,
        limit_per_user=queue.queue_limit_per_user,
        expected_wait_seconds=stats.expected_wait_s,
    )
    completions = CompletionLoad(
        running=load.completions_running,
        waiting=load.completions_waiting,
        limit=gate.queue_limit,
        limit_per_user=gate.queue_limit_per_user,
    )
    known = structs.asdict(full_answer(now))
    answer = ComprehensiveAnswer(**known, tasks=tasks, completions=completions)
    return Response(answer, status_code=status_code(now))
