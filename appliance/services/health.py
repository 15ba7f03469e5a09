"""Health, readiness and load of the server."""

import asyncio
import time
from enum import StrEnum

import structlog
from msgspec import Struct

from appliance import __version__
from appliance.domain.models import ModelInfo, ModelState
from appliance.domain.tasks import TaskKind
from appliance.inference.gateway import Gateway
from appliance.sandbox.runner import SandboxRunner
from appliance.scheduler import QueueStats, Scheduler
from appliance.store.database import WriteProbe

log = structlog.get_logger()

_PROBE_TIMEOUT_S = 2.0


class Condition(StrEnum):
    """STARTING: it is not yet known whether code can be run. DEGRADED: serves without some
    component. UNHEALTHY: can't serve.
    """

    STARTING = "starting"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Component(Struct, frozen=True):
    """The state of one component; `problem` is the cause and the remedy."""

    is_working: bool
    problem: str = ""


class Health(Struct, frozen=True):
    """The state of every component at `at` (epoch seconds).

    `models` is also working if no model is configured.
    """

    version: str
    at: float
    uptime_s: float
    database: Component
    queue: Component
    providers: Component
    models: Component
    sandbox: Component
    is_starting: bool

    @property
    def condition(self) -> Condition:
        if not (self.database.is_working and self.queue.is_working):
            return Condition.UNHEALTHY
        if self.is_starting:
            return Condition.STARTING
        if not (self.providers.is_working and self.models.is_working and self.sandbox.is_working):
            return Condition.DEGRADED
        return Condition.HEALTHY


class Readiness(Struct, frozen=True):
    """Whether the server accepts work; `waiting_for` maps what is missing to the reason."""

    ready: bool
    waiting_for: dict[str, str]


class Load(Struct, frozen=True):
    """Running and waiting work. `tasks` is None if the store does not answer.

    The completions are those of all models, including the tasks' own.
    """

    tasks: QueueStats | None
    completions_running: int
    completions_waiting: int


class HealthService:
    """Checks every component at each call, except for `write_probe`, which checks by itself.

    With `preload` the default model is loaded at the start, and readiness waits for it.
    """

    def __init__(
        self,
        write_probe: WriteProbe,
        gateway: Gateway,
        sandbox: SandboxRunner,
        scheduler: Scheduler,
        *,
        preload: bool = True,
    ) -> None:
        self._write_probe = write_probe
        self._gateway = gateway
        self._sandbox = sandbox
        self._scheduler = scheduler
        self._usable_states = {ModelState.READY}
        if not preload:
            self._usable_states |= {ModelState.UNLOADED, ModelState.LOADING}
        self._started = time.monotonic()
        self._stopping = False

    def stop(self) -> None:
        """Not ready from now on: the server is shutting down and starts no new work."""
        self._stopping = True

    async def health(self) -> Health:
        queue = _check_queue(await self._queue_stats())
        return Health(
            version=__version__,
            at=time.time(),
            uptime_s=time.monotonic() - self._started,
            database=self._check_database(queue),
            queue=queue,
            providers=self._check_providers(),
            models=_check_model(await self._gateway.default_model()),
            sandbox=self._check_sandbox(),
            is_starting=not self._sandbox.is_known,
        )

    async def load(self) -> Load:
        """The current load."""
        running, waiting = self._gateway.queue_load()
        return Load(await self._queue_stats(), running, waiting)

    async def readiness(self) -> Readiness:
        """Ready if the store can be written, the default model, if any, is loaded or can be
        loaded again, it is known whether code can be run, and the server is not shutting down.
        """
        waiting: dict[str, str] = {}
        if self._stopping:
            waiting["server"] = "the server is shutting down"
        database = self._check_database(_check_queue(await self._queue_stats()))
        if not database.is_working:
            waiting["database"] = database.problem
        model = await self._gateway.default_model()
        if model is not None and not self._is_usable(model):
            waiting["model"] = model.problem or f"{model.name} is {model.state}"
        if not self._sandbox.is_known:
            waiting["sandbox"] = self._sandbox.status.problem
        return Readiness(ready=not waiting, waiting_for=waiting)

    def _is_usable(self, model: ModelInfo) -> bool:
        """Whether a request is answered, if need be after its engine was started again."""
        return model.state in self._usable_states or model.restartable

    def _check_database(self, queue: Component) -> Component:
        """The queue is in the database: if it answers, the database can be read."""
        problem = self._write_probe.problem
        if not problem and not queue.is_working:
            problem = "the store does not answer; see the log"
        return Component(is_working=not problem, problem=problem)

    async def _queue_stats(self) -> QueueStats | None:
        """The queue's statistics, None if it does not answer."""
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await self._scheduler.stats(TaskKind.EXECUTE)
        except Exception:
            log.exception("the queue does not answer")
            return None

    def _check_providers(self) -> Component:
        providers = self._gateway.providers()
        if any(provider.available for provider in providers):
            return Component(is_working=True)
        problems = "; ".join(f"{each.name}: {each.problem}" for each in providers)
        return Component(is_working=False, problem=problems or "no provider is installed")

    def _check_sandbox(self) -> Component:
        status = self._sandbox.status
        if status.available:
            return Component(is_working=True)
        problem = "; ".join(filter(None, (status.problem, status.remedy)))
        return Component(is_working=False, problem=problem)


def _check_queue(stats: QueueStats | None) -> Component:
    if stats is None:
        return Component(is_working=False, problem="the queue does not answer; see the log")
    return Component(is_working=True)


def _check_model(model: ModelInfo | None) -> Component:
    # A model that is loaded again after a failure keeps its problem until it is ready.
    if model is None or not (model.state is ModelState.FAILED or model.problem):
        return Component(is_working=True)
    return Component(is_working=False, problem=f"{model.name}: {model.problem or 'failed to load'}")
