"""The API over a real store, real accounts and a real queue, with scripted tasks."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
from argon2 import PasswordHasher
from litestar import Litestar

from appliance.api.application import build_api
from appliance.config.settings import AuthSettings, LimitSettings, SchedulerSettings, Settings
from appliance.domain.execution import (
    BackendStatus,
    Isolation,
    IsolationLevel,
    Limits,
)
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
)
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.domain.users import Principal, Role
from appliance.errors import InvalidInput
from appliance.inference.gateway import Gateway
from appliance.sandbox.sessions.manager import SessionManager
from appliance.scheduler import RunTask
from appliance.services.accounts.passwords import Passwords
from appliance.services.accounts.service import Accounts, build_accounts
from appliance.services.catalog import CatalogService
from appliance.services.completions.service import CompletionService
from appliance.services.container import Services
from appliance.services.health import HealthService
from appliance.services.rate_window import RateWindows
from appliance.services.sandbox.service import SandboxService
from appliance.services.sandbox.sessions import SessionService
from appliance.store.sqlite.write_probe import WriteProbe
from tests.api.scripted_tasks import Script
from tests.support.task_system import TaskSystem, open_task_system

PASSWORD = "correct horse battery"


class OneModel:
    """A provider with one model, whose state the test sets."""

    def __init__(self) -> None:
        self.info = ModelInfo(
            name="starter",
            provider="llama_cpp",
            state=ModelState.READY,
            context_tokens=2048,
            max_parallel=8,
            description="a model for tests",
        )
        self.available = True

    @property
    def name(self) -> str:
        return "llama_cpp"

    def status(self) -> ProviderStatus:
        problem = "" if self.available else "the library does not load"
        return ProviderStatus("llama_cpp", available=self.available, local=True, problem=problem)

    async def models(self) -> Sequence[ModelInfo]:
        return [self.info]

    async def load(self, model: str) -> None:
        pass

    async def count_tokens(self, request: CompletionRequest) -> int:
        return len(request.messages)

    async def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        raise AssertionError("nothing is generated in these tests")
        yield

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        raise InvalidInput.at("model", "makes no embeddings")

    async def close(self) -> None:
        pass


class IdleSandbox:
    """The status of a sandbox; these tests run nothing in it."""

    def __init__(self) -> None:
        self.is_known = True
        self.status = BackendStatus(
            "bubblewrap",
            available=True,
            isolation=Isolation("bubblewrap", IsolationLevel.NAMESPACES, ("pid", "net")),
            languages={"python": "3.11.7"},
        )

    def limits(self) -> Limits:
        return Limits()


@dataclass
class Api:
    """The application, the services behind it, and the keys of its users."""

    app: Litestar
    system: TaskSystem
    services: Services
    script: Script
    provider: OneModel
    sandbox: IdleSandbox
    keys: dict[str, str]

    def client(self, user: str | None = "alice", **options: Any) -> httpx.AsyncClient:
        """A client with that user's key, from this machine; None for one without."""
        key = options.pop("key", self.keys[user] if user else None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        address = options.pop("address", "127.0.0.1")
        transport = httpx.ASGITransport(
            cast("Any", self.app), client=(address, 1234), raise_app_exceptions=False
        )
        url = options.pop("base_url", "http://server.test")
        return httpx.AsyncClient(transport=transport, base_url=url, headers=headers, **options)


def settings_with(**changes: Any) -> Settings:
    """Settings with high limits, unless `changes` says otherwise."""
    chosen: dict[str, Any] = {
        "limits": LimitSettings(requests_per_minute=100_000, burst=100_000),
        "auth": AuthSettings(dev_keys=True),
        "scheduler": SchedulerSettings(workers=2),
    }
    return Settings(**(chosen | changes))


@asynccontextmanager
async def open_api(
    path: Path,
    settings: Settings,
    work: RunTask | None = None,
    *,
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Api, None]:
    """The application on a new store at `path`; `work` handles the tasks instead of the script.

    `clock` is that of logins and keys.
    """
    script = Script()
    async with open_task_system(path, work or script, settings) as system:
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        passwords = Passwords(hasher)
        accounts = build_accounts(
            system.db, settings.auth, b"s" * 32, clock=clock, passwords=passwords
        )
        provider, sandbox = OneModel(), IdleSandbox()
        gateway = Gateway({"llama_cpp": provider}, starter)
        runner = cast("Any", sandbox)
        write_probe = WriteProbe(path)
        sandbox_service = SandboxService(runner, settings, system.db)
        sessions = SessionManager(runner, path.parent, settings.sandbox)
        services = Services(
            accounts=accounts,
            tasks=system.service,
            catalog=CatalogService(gateway, runner, settings, ["cracked"]),
            health=HealthService(write_probe, gateway, runner, system.scheduler),
            sandbox=sandbox_service,
            sandbox_sessions=SessionService(sandbox_service, sessions),
            completions=CompletionService(gateway),
            rate_windows=RateWindows(system.db),
        )
        keys = {user: await _key(accounts, who) for user, who in _principals(system).items()}
        app = build_api(services, settings)
        yield Api(app, system, services, script, provider, sandbox, keys)
        script.release()
        for hook in app.on_shutdown:
            cast("Callable[[], None]", hook)()
        await accounts.close()


async def add_user(api: Api, username: str = "carol", role: Role = Role.DEVELOPER) -> None:
    """A user who can log in with PASSWORD."""
    await api.services.accounts.users.add(
        username=username,
        email=f"{username}@example.com",
        name=username.title(),
        role=role,
        password=PASSWORD,
    )


async def starter() -> str | None:
    return "starter"


def _principals(system: TaskSystem) -> dict[str, Principal]:
    return {
        "alice": system.alice,
        "bob": system.bob,
        "admin": system.admin,
        "viewer": system.viewer,
    }


async def _key(accounts: Accounts, principal: Principal) -> str:
    _, secret = await accounts.keys.create(principal, "test", [], None)
    return secret
