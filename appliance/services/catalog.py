"""The catalog: providers, models, routes, and the capabilities of the server."""

import time
from collections.abc import Sequence

from msgspec import Struct, structs

from appliance import __version__
from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus, Limits
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.domain.tasks import CollapseStrategy, Persona, TaskType
from appliance.errors import ApplianceError
from appliance.inference.gateway import Gateway
from appliance.inference.request.route import model_path
from appliance.inference.response_cache import CacheStats
from appliance.sandbox.runner import SandboxRunner

ROUTES = "route"
_BROKEN_PLUGIN = "the plugin could not be loaded; run `monkey-coder doctor` for the reason"


class RequestLimits(Struct, frozen=True):
    """Limits on the size and the rate of requests."""

    prompt_bytes: int
    files: int
    file_bytes: int
    body_bytes: int
    max_branches: int
    task_timeout_s: float
    requests_per_minute: int
    burst: int


class Capabilities(Struct, frozen=True):
    """What the server offers at this moment."""

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
    """Read-only: lists what exists and loads nothing.

    `broken` are the names of plugins that could not be loaded; they are listed as
    unavailable providers.
    """

    def __init__(
        self,
        gateway: Gateway,
        sandbox: SandboxRunner,
        settings: Settings,
        broken: Sequence[str] = (),
    ) -> None:
        self._gateway = gateway
        self._broken = tuple(ProviderStatus(name, False, True, _BROKEN_PLUGIN) for name in broken)
        self._sandbox = sandbox
        self._settings = settings
        self._first_seen: dict[str, float] = {}

    def cache_stats(self) -> CacheStats:
        """Hits, misses and size of the response cache."""
        return self._gateway.cache_stats()

    def providers(self) -> Sequence[ProviderStatus]:
        return [*self._gateway.providers(), *self._broken]

    async def models(self, provider: str | None = None) -> Sequence[ModelInfo]:
        """The models that a request may name: routes first; only those of `provider` if given."""
        models = await self._gateway.models()
        routes = [
            _describe_route(name, targets, models)
            for name, targets in self._gateway.aliases.items()
        ]
        dated = self._add_dates([*routes, *models])
        return [model for model in dated if provider in (None, model.provider)]

    def find_model_problem(self, name: str) -> ApplianceError | None:
        """The error for a model that is not listed, but may be of a provider without a list."""
        return self._gateway.find_problem(name)

    def _add_dates(self, models: Sequence[ModelInfo]) -> Sequence[ModelInfo]:
        """Set missing creation times, which clients' formats require, to the time first seen.

        The time stays the same while the process runs, so that sorting by it is stable.
        """
        now = time.time()
        previous = self._first_seen
        paths = [model_path(each) for each in models]
        self._first_seen = {path: previous.get(path, now) for path in paths}
        return [
            structs.replace(each, created_at=each.created_at or self._first_seen[model_path(each)])
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


def _describe_route(name: str, targets: Sequence[str], models: Sequence[ModelInfo]) -> ModelInfo:
    """A route as a model; its state is that of its first target that exists."""
    matches = [
        model for target in targets for model in models if target in (model.name, model_path(model))
    ]
    state = matches[0].state if matches else ModelState.FAILED
    return ModelInfo(
        name=name,
        provider=ROUTES,
        state=state,
        context_tokens=max((each.context_tokens or 0 for each in matches), default=0) or None,
        max_parallel=max((each.max_parallel for each in matches), default=1),
        description=f"the first of these that can serve: {', '.join(targets)}",
        problem="" if matches else "none of its models exists",
    )
