"""Health of the box, in the shapes that three products ask for at the same address."""

from typing import Any

from litestar import Request, Response, get, head
from msgspec import Struct

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.times import iso
from appliance.api.openapi import ANYBODY
from appliance.services.health import Condition, Health, Part

_STRICT_CLIENT = "bearer mk-"
_ENVIRONMENT = "self-hosted"
_CODEEP = "Codeep AI API"


class HealthAnswer(Struct):
    """The four fields that strict clients know."""

    status: str
    version: str
    timestamp: str
    components: dict[str, str]


class FullHealthAnswer(HealthAnswer):
    """`redis` is "not_used": the queue lives in the box's own database."""

    service: str
    environment: str
    uptime_seconds: float
    services: dict[str, str]
    problems: dict[str, str]


class ReadinessAnswer(Struct):
    """`waiting_for` names what is not there yet, with the reason."""

    status: str
    ready: bool
    waiting_for: dict[str, str]


class AliveAnswer(Struct):
    status: str


@get("/health", security=ANYBODY)
async def health(
    request: Request[Any, Any, Any], services: ServicesDependency
) -> Response[FullHealthAnswer | HealthAnswer]:
    """How the box is. 503 only where it can't serve at all."""
    now = await services.health.health()
    strict = request.headers.get("authorization", "").lower().startswith(_STRICT_CLIENT)
    return Response(
        strict_answer(now) if strict else full_answer(now), status_code=status_code(now)
    )


@head(["/health", "/healthz"], include_in_schema=False)
async def health_head(services: ServicesDependency) -> Response[None]:
    """For load balancers that ask without wanting the body."""
    return Response(None, status_code=status_code(await services.health.health()))


@get("/healthz", security=ANYBODY)
async def alive() -> AliveAnswer:
    """That the process answers, and nothing more."""
    return AliveAnswer("ok")


@get("/health/readiness", security=ANYBODY)
async def readiness(services: ServicesDependency) -> Response[ReadinessAnswer]:
    """503 until the store, and the default model if one is configured, are ready."""
    found = await services.health.readiness()
    answer = ReadinessAnswer(
        "ready" if found.ready else "not_ready", found.ready, found.waiting_for
    )
    headers = {} if found.ready else {"Retry-After": "1"}
    return Response(answer, status_code=200 if found.ready else 503, headers=headers)


def strict_answer(now: Health) -> HealthAnswer:
    return HealthAnswer(now.condition, now.version, iso(now.at), _components(now))


def full_answer(now: Health) -> FullHealthAnswer:
    return FullHealthAnswer(
        status=now.condition,
        version=now.version,
        timestamp=iso(now.at),
        components=_components(now),
        service=_CODEEP,
        environment=_ENVIRONMENT,
        uptime_seconds=round(now.uptime_s, 3),
        services={
            "database": _word(now.database),
            "queue": _word(now.queue),
            "redis": "not_used",
        },
        problems=_problems(now),
    )


def _components(now: Health) -> dict[str, str]:
    """The documented names, for what they stand for here."""
    return {
        "orchestrator": _active(now.queue),
        "quantum_executor": _active(now.sandbox),
        "persona_router": "active",
        "provider_registry": _active(now.providers),
    }


def _problems(now: Health) -> dict[str, str]:
    parts = {name: getattr(now, name) for name in Health.__struct_fields__}
    return {
        name: part.problem
        for name, part in parts.items()
        if isinstance(part, Part) and not part.works
    }


def _active(part: Part) -> str:
    return "active" if part.works else "unavailable"


def _word(part: Part) -> str:
    return "healthy" if part.works else "unhealthy"


def status_code(now: Health) -> int:
    """503 only where the box can't serve at all."""
    return 503 if now.condition is Condition.UNHEALTHY else 200
