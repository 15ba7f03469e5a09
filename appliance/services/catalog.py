"""What this box can do: providers, models, and what stands behind them."""

from collections.abc import Sequence

from msgspec import Struct

from appliance import __version__
from appliance.domain.execution import BackendStatus, Limits
from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.domain.tasks import CollapseStrategy, Persona, TaskType
from appliance.inference.cache import CacheFigures
from appliance.inference.gateway import Gateway
from appliance.sandbox.runner import SandboxRunner
from appliance.settings import Settings

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

    def cache(self) -> CacheFigures:
        """How the cache of completions does."""
        return self._gateway.cache_figures()

    def providers(self) -> Sequence[ProviderStatus]:
        return [*self._gateway.providers(), *self._broken]

    async def models(self, provider: str | None = None) -> Sequence[ModelInfo]:
        """Every model on offer, or those of one provider."""
        known = await self._gateway.models()
        return [model for model in known if provider in (None, model.provider)]

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
