"""/health and its relatives: the health and load of the server, in the shapes of three products."""

from typing import Any

from litestar import Request, Response, get, head
from msgspec import Struct, structs

from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.http.times import iso
from appliance.api.openapi import NO_CREDENTIALS
from appliance.config.settings import Settings
from appliance.services.health import Component, Condition, Health

_STRICT_CLIENT = "bearer mk-"
_CODEEP = "Codeep AI API"


class HealthAnswer(Struct):
    """The fields for clients that reject others: they send an mk- key."""

    status: str
    version: str
    timestamp: str
    components: dict[str, str]


class FullHealthAnswer(HealthAnswer):
    """`redis` is the embedded queue and event bus. `environment` is "development" while anybody
    on this machine can get a key (`auth.dev_keys`), else "production"."""

    service: str
    environment: str
    uptime_seconds: float
    services: dict[str, str]
    problems: dict[str, str]


class ReadinessAnswer(Struct):
    """`waiting_for` names the parts that are not ready, with the reason."""

    status: str
    ready: bool
    waiting_for: dict[str, str]


class AliveAnswer(Struct):
    status: str


class TaskLoad(Struct):
    """Load of tasks. `expected_wait_seconds` of a new task is null if unknown."""

    running: int
    workers: int
    waiting: int
    limit: int
    limit_per_user: int
    expected_wait_seconds: float | None


class CompletionLoad(Struct):
    """Load of completions. `limit` is the length of the queue of each provider."""

    running: int
    waiting: int
    limit: int
    limit_per_user: int


class ComprehensiveAnswer(FullHealthAnswer):
    """`tasks` is null if the store does not respond."""

    tasks: TaskLoad | None
    completions: CompletionLoad


@get("/health", security=NO_CREDENTIALS)
async def health(
    request: Request[Any, Any, Any], services: ServicesDependency, settings: SettingsDependency
) -> Response[FullHealthAnswer | HealthAnswer]:
    """Health of the server. 503 only if it can't serve at all."""
    now = await services.health.health()
    strict = request.headers.get("authorization", "").lower().startswith(_STRICT_CLIENT)
    return Response(
        strict_answer(now) if strict else full_answer(now, settings), status_code=status_code(now)
    )


@head(["/health", "/healthz"], include_in_schema=False)
async def health_head(services: ServicesDependency) -> Response[None]:
    """Health without a body, for load balancers."""
    return Response(None, status_code=status_code(await services.health.health()))


@get("/healthz", security=NO_CREDENTIALS)
async def alive() -> AliveAnswer:
    """Liveness: 200 as long as the process responds."""
    return AliveAnswer("ok")


@get("/health/readiness", security=NO_CREDENTIALS)
async def readiness(services: ServicesDependency) -> Response[ReadinessAnswer]:
    """503 until the store and the configured default model are ready, and at shutdown."""
    state = await services.health.readiness()
    answer = ReadinessAnswer(
        "ready" if state.ready else "not_ready", state.ready, state.waiting_for
    )
    headers = {} if state.ready else {"Retry-After": "1"}
    return Response(answer, status_code=200 if state.ready else 503, headers=headers)


@get("/health/comprehensive", security=NO_CREDENTIALS)
async def comprehensive(
    services: ServicesDependency, settings: SettingsDependency
) -> Response[ComprehensiveAnswer]:
    """Health of every part, and the load of tasks and completions."""
    now, load = await services.health.health(), await services.health.load()
    stats, queue, gateway = load.tasks, settings.scheduler, settings.gateway
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
        limit=gateway.queue_limit,
        limit_per_user=gateway.queue_limit_per_user,
    )
    fields = structs.asdict(full_answer(now, settings))
    answer = ComprehensiveAnswer(**fields, tasks=tasks, completions=completions)
    return Response(answer, status_code=status_code(now))


def strict_answer(now: Health) -> HealthAnswer:
    return HealthAnswer(now.condition, now.version, iso(now.at), _components(now))


def full_answer(now: Health, settings: Settings) -> FullHealthAnswer:
    return FullHealthAnswer(
        status=now.condition,
        version=now.version,
        timestamp=iso(now.at),
        components=_components(now),
        service=_CODEEP,
        environment="development" if settings.auth.dev_keys else "production",
        uptime_seconds=round(now.uptime_s, 3),
        services={
            "database": _word(now.database),
            "queue": _word(now.queue),
            "redis": _word(now.queue),
        },
        problems=_problems(now),
    )


def _components(now: Health) -> dict[str, str]:
    """Documented names, mapped to the parts of this server. A persona's requests go to the default
    model."""
    return {
        "orchestrator": _active(now.queue),
        "quantum_executor": _active(now.sandbox),
        "persona_router": _active(now.models),
        "provider_registry": _active(now.providers),
    }


def _problems(now: Health) -> dict[str, str]:
    parts = {name: getattr(now, name) for name in Health.__struct_fields__}
    return {
        name: part.problem
        for name, part in parts.items()
        if isinstance(part, Component) and not part.is_working
    }


def _active(part: Component) -> str:
    return "active" if part.is_working else "unavailable"


def _word(part: Component) -> str:
    return "healthy" if part.is_working else "unhealthy"


def status_code(now: Health) -> int:
    """503 only if the server can't serve at all."""
    return 503 if now.condition is Condition.UNHEALTHY else 200
