"""Varied requests of accounts, the catalog and health, and those that are refused or end with
a crash."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec import structs

from appliance.domain.models import ModelState
from tests.api.application import open_api, settings_with
from tests.support.fake_upstream import STALL, as_events
from tests.support.field_values import FieldValues
from tests.support.server_process import ServerProcess
from tests.support.varied_recorder import (
    ADD,
    CHAT,
    CODE,
    HI,
    PASSWORD,
    Recorder,
    answer,
    wait_for_bodies,
)


async def call_accounts(recorder: Recorder, users: list[str]) -> None:
    """Logins of all users; a key of each becomes `recorder.keys`."""
    call = recorder.call
    for name in users:
        body = {"username": name, "password": PASSWORD}
        tokens = await call("POST /api/v1/auth/login", body, key=None)
        access = tokens["access_token"]
        await call("GET /api/v1/auth/status", key=access)
        again = await call(
            "POST /api/v1/auth/refresh", {"refresh_token": tokens["refresh_token"]}, key=None
        )
        access = again["access_token"]
        created = await call("POST /api/v1/auth/keys", {"name": f"of {name}"}, key=access)
        recorder.keys[name] = created["key"]
        limited = {"name": f"short of {name}", "permissions": ["keys"], "expires_days": 1}
        other = await call("POST /api/v1/auth/keys", limited, key=access)
        await call("GET /api/v1/auth/status", key=other["key"])
        await call("GET /api/v1/auth/keys/stats", key=other["key"])
        await call("GET /api/v1/auth/keys", key=other["key"])
        expired = {"name": "expired", "expires_days": 1e-7}
        third = await call("POST /api/v1/auth/keys", expired, key=access)
        for revoked in (other, third):
            await call("DELETE /api/v1/auth/keys/{key_id}", key=access, key_id=revoked["key_id"])
        last = await call("POST /api/v1/auth/keys", expired, key=access)
        expires_at = datetime.fromisoformat(last["expires_at"])
        await asyncio.sleep((expires_at - datetime.now(UTC)).total_seconds() + 0.01)
        await call("GET /api/v1/auth/keys", key=access)
        await call("GET /api/v1/auth/keys/stats", key=access)
        await call("POST /api/v1/auth/logout", key=access)
    for _ in range(2):
        await call("POST /api/v1/auth/keys/dev", key=None)


async def call_catalog(recorder: Recorder) -> None:
    for provider in ("", "?provider=up", "?provider=llama_cpp"):
        await recorder.call(f"GET /api/v1/models{provider}")
        await recorder.call(f"GET /v1/models{provider}")
    for model in ("tiny", "up/m", "vectors", "smart", "broken"):
        await recorder.call("GET /v1/models/{model}", model=model)
    await recorder.call("GET /v1/models/{model}", model="none")
    await recorder.call("GET /api/v1/providers")
    await recorder.call("GET /api/v1/capabilities")


async def call_operations(recorder: Recorder, key: str = "admin") -> None:
    call = recorder.call
    for who in (None, key):
        await call("GET /health", key=who)
    await call("GET /health/readiness", key=None)
    await call("GET /healthz", key=None)
    await call("GET /health/comprehensive", key=key)
    await call("GET /metrics/cache", key=key)


async def call_operations_under_load(recorder: Recorder) -> None:
    """Health while more tasks are there than workers, and more completions than may run."""
    cached = {"model": "tiny", "messages": HI, "max_tokens": 4, "temperature": 0}
    await recorder.call("POST /v1/chat/completions", cached)
    chat = {"model": "tiny", "messages": HI, "max_tokens": 300}
    body = {"prompt": "/docs explain this", "model": "tiny", "max_tokens": 300}
    tasks = [asyncio.create_task(recorder.call("POST /api/v1/execute", body)) for _ in range(16)]
    tasks += [
        asyncio.create_task(recorder.call("POST /v1/chat/completions", chat)) for _ in range(24)
    ]
    while not all(task.done() for task in tasks):
        await call_operations(recorder)
    await recorder.call("POST /v1/chat/completions", cached)
    await call_operations(recorder)


async def call_with_a_broken_store(fields: FieldValues, folder: Path) -> None:
    """Health where the database can't be read and the default model has failed."""

    def broken() -> Any:
        raise OSError

    async with open_api(folder / "server.db", settings_with()) as api:
        api.provider.info = structs.replace(
            api.provider.info, state=ModelState.FAILED, problem="no memory"
        )
        async with api.client(None) as http:
            recorder = Recorder(fields, http)
            await call_operations(recorder, api.keys["alice"])
            read, api.system.db.read = api.system.db.read, broken
            await call_operations(recorder, api.keys["alice"])
            api.system.db.read = read


async def call_after_a_crash(recorder: Recorder, server: ServerProcess) -> None:
    """A task whose first attempt ends with the server."""
    upstream = recorder.upstream
    upstream.on(CHAT, as_events({"choices": []}, end=STALL), answer(CODE))
    asked, body = len(upstream.bodies(CHAT)), {"prompt": ADD, "model": "up/m", "task_id": "crash"}
    first = asyncio.create_task(recorder.call("POST /api/v1/execute", body))
    await wait_for_bodies(upstream, asked + 1)
    server.kill()
    with pytest.raises(httpx.TransportError):
        await first
    server.env = {**server.env, "MONKEY_CODER__AGENT__TEMPERATURE": "0.4"}
    await asyncio.to_thread(server.start)
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
        again = Recorder(recorder.fields, http, upstream, recorder.keys)
        await again.call("POST /api/v1/execute", body)
        await again.call("GET /api/v1/tasks/{task_id}", task_id="crash")
        await again.call("GET /api/v1/tasks/{task_id}/events", task_id="crash")
        later = {"prompt": ADD, "model": "up/m", "task_id": "later"}
        await again.call("POST /api/v1/execute/stream", later)
        await again.call("GET /api/v1/tasks/{task_id}/events", task_id="later")
        for more in ({}, {"stream": True}):
            body = {"model": "tiny", "prompt": "later", "max_tokens": 3}
            await again.call("POST /v1/completions", body | more)
            body = {"model": "tiny", "messages": HI, "max_tokens": 3}
            await again.call("POST /v1/chat/completions", body | more)
        await call_operations(again)


async def call_errors(recorder: Recorder) -> None:
    """Refusals of every dialect, in both versions of Monkey Coder's."""
    call = recorder.call
    bad: list[tuple[str, Any]] = [
        ("POST /api/v1/execute", {"prompt": ADD, "files": [{"content": "x", "path": "../x"}]}),
        ("POST /api/v1/execute", {}),
        ("POST /api/v1/sandbox/run", {"language": "cobol", "code": "x"}),
        ("POST /api/v1/sandbox/run", {"language": "python", "code": "x", "limits": {"cpu_s": 1e9}}),
        ("GET /api/v1/tasks/none", None),
        ("POST /api/v2/execute", {"language": "cobol", "version": "*", "files": [{"content": ""}]}),
        ("POST /api/v2/execute", {}),
        ("POST /v1/chat/completions", {"model": "none", "messages": HI}),
        ("POST /v1/chat/completions", {"model": "tiny", "messages": HI, "temperature": 9}),
        ("POST /v1/messages", {"model": "none", "messages": HI, "max_tokens": 9}),
        ("POST /v1/messages", {"model": "tiny", "messages": [], "max_tokens": 9}),
        ("GET /nothing", None),
        ("PUT /healthz", None),
        ("DELETE /health/readiness", None),
    ]
    for route, body in bad:
        await call(route, body)
        await call(route, body, key=None)
        version_0 = {"Accept": "application/vnd.monkey-coder.v0+json, */*;q=0.1"}
        for key in ("alice", None):
            await call(route, body, key=key, headers=version_0)
