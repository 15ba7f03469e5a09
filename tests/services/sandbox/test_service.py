"""The code-execution service: permissions, queue, quota, limits, events."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from msgspec import structs

from appliance.config.settings import SandboxSettings, Settings
from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    OutputStream,
    RunRequest,
    RunResult,
    RunUsage,
    SandboxFile,
)
from appliance.domain.users import Principal, Role, Scope, User
from appliance.errors import (
    Forbidden,
    InvalidInput,
    QueueFull,
    RateLimited,
    SandboxUnavailable,
)
from appliance.sandbox.languages import recipes
from appliance.sandbox.runner import SandboxRunner
from appliance.services.accounts import permissions
from appliance.services.sandbox import programs
from appliance.services.sandbox.programs import Program
from appliance.services.sandbox.queue_limit import QueueLimit
from appliance.services.sandbox.run_events import Finished, Output, Queued, RunEvents, Started
from appliance.services.sandbox.service import SandboxService
from appliance.spi.sandbox import RunWatcher
from appliance.store.sqlite.database import Database
from tests.support.polling import until

ISOLATION = Isolation("test", IsolationLevel.NAMESPACES, ())
STATUS = BackendStatus("test", True, ISOLATION, {"python": "3.11.7", "c": "12.2"})


def result_of(**changes: Any) -> RunResult:
    usage = RunUsage(0.1, 0.1, 1)
    plain = RunResult(EndReason.EXITED, 0, None, b"", b"", False, usage, ISOLATION)
    return structs.replace(plain, **changes)


class Backend:
    """A fake backend; its runs end when the test sets `go`."""

    name = "test"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.requests: list[RunRequest] = []
        self.cancelled = 0

    async def probe(self) -> BackendStatus:
        return STATUS

    async def run(self, request: RunRequest) -> RunResult:
        if "command -v" in " ".join(request.argv):
            return result_of()
        self.requests.append(request)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return result_of(stdout=b"done\n")

    async def close(self) -> None:
        self.go.set()


class StreamingBackend(Backend):
    """Streams the output of its runs."""

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        watcher.started()
        for piece in (b"a", b"b", b"c" * 100):
            watcher.output(OutputStream.STDOUT, piece)
        return await self.run(request)


def principal(role: Role = Role.DEVELOPER, number: int = 1) -> Principal:
    user = User(number, f"user_{number}", "x", "x@example.com", "X", role, False, 0.0)
    return Principal(user, permissions.scopes_of_role(role))


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return getattr(request, "param", Backend)()


@pytest.fixture
async def service(backend: Backend, db: Database) -> AsyncIterator[SandboxService]:
    settings = Settings(sandbox=SandboxSettings(parallel_runs=1, queue_limit=3, queue_per_user=2))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    yield SandboxService(runner, settings, db)
    await runner.close()


PROGRAM = Program(argv=("true",))


def test_scope_when_the_role_is_viewer_then_it_lacks_sandbox() -> None:
    assert principal().may(Scope.SANDBOX)
    assert not principal(Role.VIEWER).may(Scope.SANDBOX)
    assert permissions.grant_scopes(principal(), ["sandbox"]) == ("sandbox",)
    with pytest.raises(Forbidden):
        permissions.grant_scopes(principal(Role.VIEWER), ["sandbox"])


async def test_methods_when_the_scope_is_missing_then_forbidden(service: SandboxService) -> None:
    viewer = principal(Role.VIEWER)
    for work in (service.run(viewer, PROGRAM), service.open_events(viewer, PROGRAM),
                 service.describe_complete(viewer), service.describe_ready(viewer),
                 service.describe_sufficient(viewer, lambda _: True)):  # fmt: skip
        with pytest.raises(Forbidden, match="'sandbox'"):
            await work
    with pytest.raises(Forbidden):
        service.describe(viewer)


class SlowBackend(Backend):
    """Detection of its languages ends when the test sets `go`."""

    async def run(self, request: RunRequest) -> RunResult:
        await self.go.wait()
        return result_of()


@pytest.mark.parametrize("backend", [SlowBackend], indirect=True)
async def test_describe_when_languages_are_being_detected_then_waits_only_if_insufficient(
    service: SandboxService, backend: Backend
) -> None:
    now = await service.describe_sufficient(
        principal(), lambda current: "python" in [each.name for each in current.languages]
    )
    assert not now.complete

    later = asyncio.create_task(service.describe_sufficient(principal(), lambda _: False))
    await asyncio.sleep(0.01)  # it must not end
    assert not later.done()
    backend.go.set()
    assert (await later).complete


async def test_run_when_the_quota_is_used_up_then_rate_limited(
    backend: Backend, db: Database
) -> None:
    settings = Settings(sandbox=SandboxSettings(runs_per_hour=1))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings, db)
    backend.go.set()

    await service.run(principal(), PROGRAM)

    with pytest.raises(RateLimited, match="limit of 1 runs"):
        await service.open_events(principal(), PROGRAM)
    await runner.close()


class RefusingBackend(Backend):
    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        raise InvalidInput.at("argv", "is too long")


@pytest.mark.parametrize("backend", [RefusingBackend], indirect=True)
async def test_run_when_it_never_starts_then_it_is_not_counted(
    backend: Backend, db: Database
) -> None:
    settings = Settings(sandbox=SandboxSettings(runs_per_hour=1))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings, db)

    for _ in range(3):
        with pytest.raises(InvalidInput, match="too long"):
            await service.run(principal(), PROGRAM)
    await runner.close()


async def test_quota_when_many_run_at_once_then_exactly_the_limit_run(
    backend: Backend, db: Database
) -> None:
    settings = Settings(
        sandbox=SandboxSettings(runs_per_hour=10, queue_limit=200, queue_per_user=200)
    )
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings, db)
    backend.go.set()

    calls = [service.run(principal(), PROGRAM) for _ in range(100)]
    ended = await asyncio.gather(*calls, return_exceptions=True)

    assert len(backend.requests) == 10
    assert sum(isinstance(each, RateLimited) for each in ended) == 90
    await runner.close()


async def test_run_when_there_is_no_sandbox_then_unavailable(db: Database) -> None:
    settings = Settings()
    runner = SandboxRunner({}, settings.sandbox)
    await runner.start()
    with pytest.raises(SandboxUnavailable, match="no sandbox backend"):
        await SandboxService(runner, settings, db).run(principal(), PROGRAM)


async def test_queue_when_full_then_refused_with_the_place_and_free_again_later(
    service: SandboxService, backend: Backend
) -> None:
    running = asyncio.create_task(service.run(principal(), PROGRAM))
    await until(lambda: backend.requests)
    waiting = [await service.open_events(principal(number=n), PROGRAM) for n in (1, 1, 2)]
    with pytest.raises(QueueFull) as refused:
        await service.run(principal(number=3), PROGRAM)
    assert refused.value.details["place"] == 4
    assert refused.value.details["queue_limit"] == 3

    backend.go.set()
    assert (await running).run.ok
    for events in waiting:
        assert isinstance([event async for event in events][-1], Finished)
    assert (await service.run(principal(), PROGRAM)).run.stdout == b"done\n"


def test_queue_limit_when_one_user_fills_their_part_then_others_are_admitted() -> None:
    queue_limit = QueueLimit(limit=3, per_user=1, retry_after_s=1.0)
    first = queue_limit.admit(1)
    with pytest.raises(QueueFull, match="your part of the sandbox queue"):
        queue_limit.admit(1)
    assert queue_limit.admit(2).number == 2
    first.release()
    first.release()
    with queue_limit.admit(1) as again:
        assert again.number == 2


async def test_run_when_its_caller_is_cancelled_then_killed_and_its_place_is_free(
    service: SandboxService, backend: Backend
) -> None:
    for _ in range(5):
        run = asyncio.create_task(service.run(principal(), PROGRAM))
        await until(lambda: len(backend.requests) > backend.cancelled)
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
    assert backend.cancelled == 5
    backend.go.set()
    assert (await service.run(principal(), PROGRAM)).run.ok


@pytest.mark.parametrize("backend", [StreamingBackend], indirect=True)
async def test_events_when_the_backend_streams_then_output_comes_live(
    service: SandboxService, backend: Backend
) -> None:
    events = service.events(principal(), PROGRAM)
    assert await anext(events) == Queued(1)
    assert await anext(events) == Started(True, None, None)
    assert await anext(events) == Output(OutputStream.STDOUT, b"ab" + b"c" * 100)
    backend.go.set()
    last = [event async for event in events]
    assert isinstance(last[-1], Finished)


async def test_events_when_the_backend_can_not_stream_then_output_comes_at_the_end(
    service: SandboxService, backend: Backend
) -> None:
    backend.go.set()
    events = [event async for event in service.events(principal(), PROGRAM)]

    assert events[1:3] == [Started(False, None, None), Output(OutputStream.STDOUT, b"done\n")]


@pytest.mark.parametrize("backend", [StreamingBackend], indirect=True)
async def test_events_when_closed_early_then_the_run_is_killed(
    service: SandboxService, backend: Backend
) -> None:
    events = await service.open_events(principal(), PROGRAM)
    async for event in events:
        if isinstance(event, Output):
            break
    await events.aclose()

    assert backend.cancelled == 1


async def test_run_events_when_nobody_reads_then_bounded_and_merged() -> None:
    events = RunEvents(Started(True, None, None), max_bytes=10)
    for _ in range(1000):
        events.add_output(OutputStream.STDERR, b"xyz")
    done = asyncio.create_task(asyncio.sleep(0))

    assert [event async for event in events.follow(done)] == [
        Output(OutputStream.STDERR, b"xyzxyzxyzx")
    ]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"wall_s": 10.5}, r"10.5 is out of range \(0.1 to 10\)"),
        ({"memory_bytes": 1}, "limits.memory_bytes"),
        ({"processes": 0}, "limits.processes"),
        ({"cpu_s": float("nan")}, "limits.cpu_s"),
        ({"artifact_files": -1}, "limits.artifact_files"),
        (
            {"memory_bytes": 10**400},
            "limits.memory_bytes: a number with hundreds of digits is out of range",
        ),
    ],
)
def test_limits_when_out_of_range_then_error_names_the_range(
    limits: dict[str, float], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        programs.lower_limits(Limits(), limits)


def test_limits_when_lower_then_applied() -> None:
    lowered = programs.lower_limits(Limits(), {"wall_s": 1.5, "processes": 3})

    assert (lowered.wall_s, lowered.processes, lowered.cpu_s) == (1.5, 3, Limits().cpu_s)


def test_program_when_it_is_compiled_then_the_compiler_has_limits_of_its_own() -> None:
    """F2"""
    program = Program(
        language="C",
        files=(SandboxFile("a.c", b""),),
        limits={"wall_s": 1.0, "cpu_s": 2.0},
        build_limits={"wall_s": 3.0},
    )
    prepared = programs.prepare_program(program, Limits(), 10, STATUS)

    assert (prepared.language, prepared.version) == ("c", "12.2")
    assert prepared.request.build
    assert (prepared.request.limits.wall_s, prepared.request.limits.cpu_s) == (1.0, 2.0)
    assert prepared.request.build.wall_s == 3.0
    assert prepared.request.build.cpu_s == Limits().cpu_s
    with pytest.raises(InvalidInput, match=r"limits.wall_s: 99 is out of range"):
        programs.prepare_program(
            structs.replace(program, build_limits={"wall_s": 99}), Limits(), 10, STATUS
        )


@pytest.mark.parametrize("recipe", recipes.RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_when_filled_then_each_name_stays_one_word(recipe: recipes.LanguageRecipe) -> None:
    entry = "{sources} '$(x).zz"
    files = [SandboxFile(entry, b""), SandboxFile("b;c", b"")]
    commands = recipes.make_commands(recipe, entry, files, ["$x"], Limits().memory_bytes)

    assert commands.run[-1] == "$x"
    if recipe.build:
        assert commands.build
        assert "'./{sources} '\"'\"'$(x).zz'" in commands.build[2]
    else:
        assert commands.run == (recipe.tool, f"./{entry}", "$x")
    assert recipes.find_recipe(recipe.name.upper()) is recipe


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ("main.js", "main.js"),
        ("folder/main.js", "folder/main.js"),
        ("-e.js", "./-e.js"),
        ("+x.js", "./+x.js"),
        ("inspect", "./inspect"),
    ],
)
def test_interpreter_when_started_then_takes_no_file_for_an_option(entry: str, named: str) -> None:
    node = recipes.find_recipe("node")

    assert node
    commands = recipes.make_commands(node, entry, [SandboxFile(entry, b"")], (), 1 << 28)
    assert commands == recipes.Commands(("node", named))
