"""How the box is: what works, what does not, and whether to send it work."""

import asyncio
import time
from enum import StrEnum

import structlog
from msgspec import Struct

from appliance import __version__
from appliance.domain.models import ModelInfo, ModelState
from appliance.inference.gateway import Gateway
from appliance.sandbox.runner import SandboxRunner
from appliance.scheduler import QueueStats, Scheduler
from appliance.store.sqlite.database import Database

log = structlog.get_logger()

_PROBE_TIMEOUT_S = 2.0


class Condition(StrEnum):
    """HEALTHY: all works. DEGRADED: it serves, without a part. UNHEALTHY: it can't serve."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Part(Struct, frozen=True):
    """One part of the box. `problem` says what is wrong with it and what to do."""

    works: bool
    problem: str = ""


class Health(Struct, frozen=True):
    """The state now. `at` is in epoch seconds, `uptime_s` in seconds.

    `models` works where no model is configured, too: an empty box is not a broken one.
    """

    version: str
    at: float
    uptime_s: float
    database: Part
    queue: Part
    providers: Part
    models: Part
    sandbox: Part

    @property
    def condition(self) -> Condition:
        if not (self.database.works and self.queue.works):
            return Condition.UNHEALTHY
        if not (self.providers.works and self.models.works and self.sandbox.works):
            return Condition.DEGRADED
        return Condition.HEALTHY


class Readiness(Struct, frozen=True):
    """Whether the box should be sent work; `waiting_for` names what is not there yet."""

    ready: bool
    waiting_for: dict[str, str]


class Load(Struct, frozen=True):
    """What runs and what waits. `tasks` is None where the store does not answer.

    The completions are those at the gate of every model, the tasks' own among them.
    """

    tasks: QueueStats | None
    completions_running: int
    completions_waiting: int


class HealthService:
    """Looks at the real parts at each call; no answer is remembered.

    With `preload` the default model is loaded at the start, so that readiness waits for it.
    """

    def __init__(
        self,
        database: Database,
        gateway: Gateway,
        sandbox: SandboxRunner,
        scheduler: Scheduler,
        *,
        preload: bool = True,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._sandbox = sandbox
        self._scheduler = scheduler
        self._awaited = {ModelState.LOADING, ModelState.FAILED}
        if preload:
            self._awaited.add(ModelState.UNLOADED)
        self._started = time.monotonic()

    async def health(self) -> Health:
        return Health(
            version=__version__,
            at=time.time(),
            uptime_s=time.monotonic() - self._started,
            database=await self._database_part(),
            queue=await self._queue_part(),
            providers=self._providers_part(),
            models=_model_part(await self._default_model()),
            sandbox=self._sandbox_part(),
        )

    async def load(self) -> Load:
        """How busy the box is now."""
        running, waiting = self._gateway.load_of_gate()
        return Load(await self._queue_stats(), running, waiting)

    async def readiness(self) -> Readiness:
        """Ready when the store answers and the default model, if there is one, is loaded."""
        waiting: dict[str, str] = {}
        database = await self._database_part()
        if not database.works:
            waiting["database"] = database.problem
        model = await self._default_model()
        if model is not None and model.state in self._awaited:
            waiting["model"] = model.problem or f"{model.name} is {model.state}"
        return Readiness(ready=not waiting, waiting_for=waiting)

    async def _database_part(self) -> Part:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S), self._database.read() as connection:
                await connection.scalar("SELECT 1", {})
        except Exception:
            # Whatever stops the store from answering is the finding itself.
            log.exception("the store does not answer")
            return Part(works=False, problem="the store does not answer; see the log")
        return Part(works=True)

    async def _queue_part(self) -> Part:
        if await self._queue_stats() is None:
            return Part(works=False, problem="the queue does not answer; see the log")
        return Part(works=True)

    async def _queue_stats(self) -> QueueStats | None:
        """None where the queue does not answer."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._scheduler.stats()
        except Exception:
            log.exception("the queue does not answer")
            return None

    def _providers_part(self) -> Part:
        providers = self._gateway.providers()
        if any(provider.available for provider in providers):
            return Part(works=True)
        problems = "; ".join(f"{each.name}: {each.problem}" for each in providers)
        return Part(works=False, problem=problems or "no provider is installed")

    def _sandbox_part(self) -> Part:
        status = self._sandbox.status
        return Part(works=status.available, problem="" if status.available else status.problem)

    async def _default_model(self) -> ModelInfo | None:
        return next((model for model in await self._gateway.models() if model.is_default), None)


def _model_part(model: ModelInfo | None) -> Part:
    if model is None or model.state is not ModelState.FAILED:
        return Part(works=True)
    return Part(works=False, problem=f"{model.name}: {model.problem or 'failed to load'}")
