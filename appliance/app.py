"""The composition root: builds every part of the appliance once, in reading order."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from litestar import Litestar
from msgspec import structs

from appliance import __version__, plugins, processes, telemetry
from appliance.agents import CodingAgent
from appliance.api.application import build_api
from appliance.config.settings import Settings
from appliance.domain import toolchain_cache
from appliance.domain.tasks import Priority, TaskKind
from appliance.domain.users import DEFAULT_PLAN
from appliance.errors import ApplianceError
from appliance.events import EventBus
from appliance.inference import Gateway, Route, provider_factory
from appliance.models.cached_registry import CachedModelRegistry
from appliance.models.registry import ModelRegistry
from appliance.sandbox.languages.toolchain_cache import ToolchainCache
from appliance.sandbox.python import runtime
from appliance.sandbox.runner import SandboxRunner, UserSandbox
from appliance.sandbox.sessions.manager import SessionManager
from appliance.scheduler import Scheduler, TaskHandler, server_id
from appliance.services.accounts.service import build_accounts
from appliance.services.accounts.signing_secret import load_or_create
from appliance.services.catalog import CatalogService
from appliance.services.completions.service import CompletionService
from appliance.services.container import Services
from appliance.services.health import HealthService
from appliance.services.model_recovery import recover_default_model
from appliance.services.rate_window import RateWindows
from appliance.services.sandbox.service import SandboxService
from appliance.services.sandbox.sessions import SessionService
from appliance.services.tasks.retention import TaskRetention
from appliance.services.tasks.service import TaskService
from appliance.spi.fair_queue import UserWeights
from appliance.spi.provider import Provider
from appliance.spi.registry import PluginContext, PluginProblem, Registry
from appliance.store.sqlite.database import Database
from appliance.store.sqlite.write_probe import WriteProbe
from appliance.store.tables import task_events, user_feeds, users

log = structlog.get_logger()

_MAX_RUNTIME_PATH = 60  # a Unix socket's path holds 107 bytes, the file name included


@dataclass(frozen=True)
class Appliance:
    """The running appliance, without its HTTP server."""

    settings: Settings
    data_dir: Path
    bus: EventBus
    gateway: Gateway
    sandbox: SandboxRunner
    scheduler_start: asyncio.Task[None]
    scheduler: Scheduler
    services: Services
    api: Litestar
    problems: tuple[PluginProblem, ...]

    async def drain(self) -> None:
        """Start no new task or completion, and let running ones end within the grace period.

        After it, tasks are put back into the queue, completions fail with ServerStopping, and
        the streams of tasks are closed.
        """
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self.settings.server.shutdown_grace_s
        self.services.health.stop()
        self.services.completions.stop()
        await self.scheduler.drain(self.settings.server.shutdown_grace_s)
        await self.gateway.drain(max(0.0, ends_at - loop.time()))
        self.bus.close()


@asynccontextmanager
async def run_appliance(
    settings: Settings, data_dir: Path, database: Path
) -> AsyncGenerator[Appliance, None]:
    """Build the appliance and start its workers; on exit, close all in reverse order.

    Raises SetupError if the administrator has to change something first.
    """
    telemetry.set_build(__version__)
    async with AsyncExitStack() as stack:
        secret = load_or_create(data_dir, settings.auth.jwt_secret_key)
        store = await Database.open(database)
        stack.push_async_callback(store.close)
        owner = server_id.load_or_create(data_dir)
        write_probe = WriteProbe(database)
        write_probe.start()
        stack.push_async_callback(write_probe.close)
        bus = EventBus(task_events.create_reader(store), user_feeds.create_reader(store))
        models = CachedModelRegistry(ModelRegistry(store, data_dir), store)

        loaded = plugins.load(settings.plugins)
        runtime_dir = stack.enter_context(_runtime_dir(data_dir))
        context = _plugin_context(data_dir, runtime_dir, models)
        providers, failed = provider_factory.build_providers(loaded.registry, context, settings)
        gateway = _build_gateway(settings, store, owner, models, providers)
        stack.push_async_callback(gateway.close)
        sandbox, failed_sandboxes = _build_sandbox(settings, store, loaded.registry, context)
        problems = (*loaded.problems, *failed, *failed_sandboxes)
        stack.push_async_callback(sandbox.close)
        sessions = SessionManager(sandbox, data_dir, settings.sandbox)
        stack.push_async_callback(sessions.stop)
        sandbox_service = SandboxService(sandbox, settings, store)

        agent = CodingAgent(
            gateway,
            sandbox,
            settings.agent,
            partial(_sandbox_for_user, store, sandbox),
        )
        scheduler = Scheduler(
            store,
            bus,
            {TaskKind.EXECUTE.value: TaskHandler(agent.run, settings.scheduler.workers)},
            settings.scheduler,
            owner=owner,
            on_end=[gateway.settle_task],
        )
        services = Services(
            accounts=build_accounts(store, settings.auth, secret),
            tasks=TaskService(store, bus, scheduler, settings),
            catalog=CatalogService(
                gateway, sandbox, settings, [problem.name for problem in problems]
            ),
            health=HealthService(
                write_probe, gateway, sandbox, scheduler, preload=settings.models.preload
            ),
            sandbox=sandbox_service,
            sandbox_sessions=SessionService(sandbox_service, sessions),
            completions=CompletionService(gateway, settings.limits),
            rate_windows=RateWindows(store),
        )

        await gateway.start()
        await sessions.start()
        retention = TaskRetention(store, settings.data)
        retention.start()
        stack.push_async_callback(retention.close)
        await services.accounts.start()
        stack.push_async_callback(services.accounts.close)
        stack.push_async_callback(scheduler.drain, 0)
        # Neither loading a model nor unpacking Python may delay the first answer.
        start = _in_background(stack, "scheduler", _start_scheduler(sandbox, scheduler))
        if settings.models.preload:
            _in_background(stack, "model", _preload(gateway))
        _in_background(stack, "model recovery", recover_default_model(gateway))
        yield Appliance(
            settings, data_dir, bus, gateway, sandbox, start, scheduler, services,
            build_api(services, settings), problems,
        )  # fmt: skip


def _plugin_context(
    data_dir: Path, runtime_dir: Path, models: CachedModelRegistry
) -> PluginContext:
    return PluginContext(
        data_dir=data_dir,
        runtime_dir=runtime_dir,
        settings={},
        models=models,
        child_argv=plugins.child_argv,
        child_env=processes.child_env,
        host_env=processes.host_env,
        sandbox_python=lambda: runtime.ensure_runtime(data_dir),
    )


def _build_gateway(
    settings: Settings,
    store: Database,
    owner: str,
    models: CachedModelRegistry,
    providers: Mapping[str, Provider],
) -> Gateway:
    return Gateway(
        providers,
        lambda: _default_model(settings, models),
        settings,
        db=store,
        owner=owner,
        username=partial(_username, store),
        fingerprint=lambda route: _fingerprint(models, route),
    )


def _build_sandbox(
    settings: Settings, store: Database, registry: Registry, context: PluginContext
) -> tuple[SandboxRunner, list[PluginProblem]]:
    """The runner over every registered backend, each with [sandbox] and its plugin's settings."""
    limits = structs.asdict(settings.sandbox)
    backends, problems = registry.build_sandboxes(
        {
            name: structs.replace(
                context, settings=limits | settings.plugins.settings.get(name, {})
            )
            for name in registry.sandboxes
        }
    )
    runner = SandboxRunner(
        backends,
        settings.sandbox,
        plans=settings.plans,
        toolchain_cache=ToolchainCache(context.data_dir / toolchain_cache.DIRECTORY),
        weights=UserWeights(
            {name: share.weight for name, share in settings.shares.items()},
            partial(_username, store),
        ),
    )
    return runner, problems


@contextmanager
def _runtime_dir(data_dir: Path) -> Generator[Path, None, None]:
    """An empty private folder with a path short enough for Unix sockets."""
    folder = data_dir / "run"
    if len(str(folder)) > _MAX_RUNTIME_PATH:
        with tempfile.TemporaryDirectory(prefix="monkey-coder-") as name:
            yield Path(name)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _default_model(settings: Settings, models: CachedModelRegistry) -> str | None:
    return settings.models.default or await models.default()


async def _fingerprint(models: CachedModelRegistry, route: Route) -> str:
    """Identifies the state of a model for the response cache: a local file's SHA-256."""
    return await models.sha256(route.model) if route.provider == provider_factory.LOCAL else ""


async def _username(store: Database, user_id: int) -> str | None:
    async with store.read() as connection:
        user = await users.get(connection, user_id)
    return user.username if user else None


async def _sandbox_for_user(
    store: Database, sandbox: SandboxRunner, user_id: int, priority: Priority
) -> UserSandbox:
    """The sandbox with the limits of the user's plan; a deleted user has the default plan."""
    async with store.read() as connection:
        user = await users.get(connection, user_id)
    return sandbox.for_user(user_id, user.plan if user else DEFAULT_PLAN, priority)


async def _start_scheduler(sandbox: SandboxRunner, scheduler: Scheduler) -> None:
    """Start the scheduler once it is known whether code can be run."""
    await sandbox.start()
    await scheduler.start()


async def _preload(gateway: Gateway) -> None:
    route = await gateway.resolve(None, None)
    await gateway.load(route)
    log.info("model ready", model=route.model)


def _in_background(
    stack: AsyncExitStack, name: str, work: Coroutine[Any, Any, None]
) -> asyncio.Task[None]:
    """Run `work` in the background; its failure is logged, and visible in /health."""

    async def guarded() -> None:
        try:
            await work
        except ApplianceError as error:
            log.warning(f"{name} not ready", reason=error.message)

    task = asyncio.ensure_future(guarded())

    async def end() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
    return task
