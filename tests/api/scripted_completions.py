"""Scripted completions that record their requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec

from appliance.api.application import build_api
from appliance.config.settings import Settings
from appliance.domain.completions import CacheStatus, CompletionReport, CompletionSpec
from appliance.domain.messages import (
    CompletionEvent,
    EmbeddingRequest,
    Embeddings,
    Finished,
    FinishReason,
    TextDelta,
    TokenUsage,
)
from appliance.domain.users import Principal
from appliance.services.completions.service import Completion
from appliance.services.container import Services
from appliance.services.rate_window import RateWindows
from tests.support.accounts import open_accounts_harness

USAGE = TokenUsage(prompt_tokens=20, completion_tokens=5, cached_tokens=12)
HELLO = (TextDelta("Hel"), TextDelta("lo"), Finished(FinishReason.STOP, USAGE))
REPORT = CompletionReport("llama_cpp", "starter", cache=CacheStatus.MISS, overhead_s=0.0015)

Step = CompletionEvent | Exception | None  # None: nothing comes until the test is over


class Scripted:
    """One completion."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self.report = REPORT
        self.stalled = asyncio.Event()
        self.closed = asyncio.Event()
        self._steps = steps

    async def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        for step in self._steps:
            if step is None:
                self.stalled.set()
                await asyncio.Event().wait()
            elif isinstance(step, Exception):
                raise step
            else:
                yield step

    async def aclose(self) -> None:
        self.closed.set()


class ScriptedCompletions:
    """Stands in for CompletionService; `steps` are those of the next completion."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Reset for the next test."""
        self.steps: Sequence[Step] = HELLO
        self.refusal: Exception | None = None
        self.specs: list[CompletionSpec] = []
        self.principals: list[Principal] = []
        self.started: list[Scripted] = []
        self.waiting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.may_start.set()

    async def start(
        self, principal: Principal, spec: CompletionSpec, choices: int = 1
    ) -> Sequence[Completion]:
        self._record(principal, spec)
        await self._turn()
        self.started.append(Scripted(self.steps))
        return [self.started[-1]]

    async def count_tokens(self, principal: Principal, spec: CompletionSpec) -> int:
        self._record(principal, spec)
        return 42

    async def embed(self, principal: Principal, request: EmbeddingRequest) -> Embeddings:
        raise AssertionError("nothing is embedded in these tests")

    def _record(self, principal: Principal, spec: CompletionSpec) -> None:
        self.specs.append(spec)
        self.principals.append(principal)
        if self.refusal is not None:
            raise self.refusal

    async def _turn(self) -> None:
        self.waiting.set()
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class ScriptedApi:
    """The application over scripted completions, and Alice's client of it.

    One serves all tests of a file; each begins with `service.reset()`.
    """

    def __init__(self, app: Any, client: httpx.AsyncClient, service: ScriptedCompletions) -> None:
        self.app = app
        self.client = client
        self.service = service

    @property
    def spec(self) -> CompletionSpec:
        return self.service.specs[-1]


@asynccontextmanager
async def open_scripted(folder: Path, settings: Settings) -> AsyncGenerator[ScriptedApi, None]:
    """The application with real accounts; the other services are unused."""
    async with open_accounts_harness(folder) as harness:
        await harness.add("alice")
        key = await harness.create_key("alice")
        service = ScriptedCompletions()
        unused = dict.fromkeys(each.name for each in fields(Services))
        given: Any = unused | {
            "accounts": harness.accounts,
            "completions": service,
            "rate_windows": RateWindows(harness.db),
        }
        app = build_api(Services(**given), settings)
        transport = httpx.ASGITransport(cast("Any", app), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server.test", headers={"x-api-key": key}
        ) as client:
            yield ScriptedApi(app, client, service)


@asynccontextmanager
async def disconnecting_client(
    scripted: ScriptedApi, path: str, body: Mapping[str, Any], *, refuses_headers: bool = False
) -> AsyncGenerator[asyncio.Event, None]:
    """A request whose client disconnects once the event is set; awaited at the end."""
    leave = asyncio.Event()
    given = [{"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}]

    async def receive() -> Any:
        if given:
            return given.pop()
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if refuses_headers:
            raise OSError("the connection is closed")

    key = scripted.client.headers["x-api-key"].encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "client": ("127.0.0.1", 1), "server": ("server.test", 80),
        "headers": [
            (b"host", b"server.test"), (b"x-api-key", key), (b"content-type", b"application/json"),
        ],
    }  # fmt: skip
    asked = asyncio.ensure_future(scripted.app(scope, receive, send))
    try:
        yield leave
    finally:
        async with asyncio.timeout(10):
            await asyncio.gather(asked, return_exceptions=refuses_headers)
