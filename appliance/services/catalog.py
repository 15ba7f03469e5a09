"""What this box can do: providers, models, and what stands behind them."""

import time
from collections.abc import Sequence

from msgspec import Struct, structs

from appliance import __version__
from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus, Limits
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.domain.tasks import CollapseStrategy, Persona, TaskType
from appliance.inference.gateway import Gateway
from appliance.inference.request.route import path
from appliance.inference.response_cache import CacheFigures
from appliance.sandbox.runner import SandboxRunner

ROUTES = "route"
_BROKEN = "the plugin could not be loaded; `monkey-coder doctor` says why"


class RequestLimits(Struct, frozen=True):
    """What one request may hold and how often one may come."""

    prompt_bytes: int
    files: int
    file_bytes: int
    body_bytes: int
    max_branches: int
    task_timeout_s: float
    requests_per_minute: int
    burst: int


class Capabilities(Struct, frozen=True):
    """Everything that is really there, at this moment."""

    version: str
    personas: tuple[Persona, ...]
    task_types: tuple[TaskType, ...]
    strategies: tuple[CollapseStrategy, ...]
    providers: tuple[ProviderStatus, ...]
    models: tuple[ModelInfo, ...]
    sandbox: BackendStatus
    sandbox_limits: Limits
    limits: RequestLimits


class CatalogService:
    """Answers what exists; changes nothing and loads nothing.

    `broken` names the plugins that could not be loaded: they are shown, not hidden.
    """

    def __init__(
        self,
        gateway: Gateway,
        sandbox: SandboxRunner,
        settings: Settings,
        broken: Sequence[str] = (),
    ) -> None:
        self._gateway = gateway
        self._broken = tuple(ProviderStatus(name, False, True, _BROKEN) for name in broken)
        self._sandbox = sandbox
        self._settings = settings
        self._known_since: dict[str, float] = {}

    def cache(self) -> CacheFigures:
        """How the cache of completions does."""
        return self._gateway.cache_figures()

    def providers(self) -> Sequence[ProviderStatus]:
        return [*self._gateway.providers(), *self._broken]

    async def models(self, provider: str | None = None) -> Sequence[ModelInfo]:
        """Every name that a request may use: routes first, then models; or of one provider."""
        known = await self._gateway.models()
        routes = [_of_route(name, ways, known) for name, ways in self._gateway.aliases.items()]
        dated = self._dated([*routes, *known])
        return [model for model in dated if provider in (None, model.provider)]

    def _dated(self, models: Sequence[ModelInfo]) -> Sequence[ModelInfo]:
        """Clients' formats demand a time: without one, when this box first heard of the model.

        It does not change while the box runs, so that whoever sorts by it gets one order.
        """
        now = time.time()
        before = self._known_since
        self._known_since = {path(each): before.get(path(each), now) for each in models}
        return [
            structs.replace(each, created_at=each.created_at or self._known_since[path(each)])
            for each in models
        ]

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            version=__version__,
            personas=tuple(Persona),
            task_types=tuple(TaskType),
            strategies=tuple(CollapseStrategy),
            providers=tuple(self.providers()),
            models=tuple(await self.models()),
            sandbox=self._sandbox.status,
            sandbox_limits=self._sandbox.limits(),
            limits=self._limits(),
        )

    def _limits(self) -> RequestLimits:
        settings = self._settings
        return RequestLimits(
            prompt_bytes=settings.limits.prompt_bytes,
            files=settings.limits.files,
            file_bytes=settings.limits.file_bytes,
            body_bytes=settings.server.max_body_bytes,
            max_branches=settings.agent.max_branches,
            task_timeout_s=settings.scheduler.task_timeout_s,
            requests_per_minute=settings.limits.requests_per_minute,
            burst=settings.limits.burst,
        )


def _of_route(name: str, ways: Sequence[str], known: Sequence[ModelInfo]) -> ModelInfo:
    """A route as a model: in the state of the first of its models that exists."""
    leads_to = [each for way in ways for each in known if way in (each.name, path(each))]
    state = leads_to[0].state if leads_to else ModelState.FAILED
    return ModelInfo(
        name=name,
        provider=ROUTES,
        state=state,
        context_tokens=max((each.context_tokens or 0 for each in leads_to), default=0) or None,
        max_parallel=max((each.max_parallel for each in leads_to), default=1),
        description=f"the first of these that can serve: {', '.join(ways)}",
        problem="" if leads_to else "none of its models exists here",
    )
