"""The code-execution service: rights, queue, limits, and what its events tell."""

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
from appliance.services.sandbox.queue_limit import WaitingRoom
from appliance.services.sandbox.run_events import Feed, Finished, Output, Started, Waits
from appliance.services.sandbox.service import SandboxService
from appliance.spi.sandbox import RunWatcher

ISOLATION = Isolation("test", IsolationLevel.NAMESPACES, ())
STATUS = BackendStatus("test", True, ISOLATION, {"python": "3.11.7", "c": "12.2"})


def result_of(**changes: Any) -> RunResult:
    usage = RunUsage(0.1, 0.1, 1)
    plain = RunResult(EndReason.EXITED, 0, None, b"", b"", False, usage, ISOLATION)
    return structs.replace(plain, **changes)


class Backend:
    """Stands for a real one: its runs end when the test says so."""

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


class Telling(Backend):
    """One that tells of its runs."""

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        watcher.started()
        for piece in (b"a", b"b", b"c" * 100):
            watcher.output(OutputStream.STDOUT, piece)
        return await self.run(request)


def principal(role: Role = Role.DEVELOPER, number: int = 1) -> Principal:
    user = User(number, f"user_{number}", "x", "x@example.com", "X", role, False, 0.0)
    return Principal(user, permissions.role_scopes(role))


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    return getattr(request, "param", Backend)()


@pytest.fixture
async def service(backend: Backend) -> AsyncIterator[SandboxService]:
    settings = Settings(sandbox=SandboxSettings(parallel_runs=1, queue_limit=3, queue_per_user=2))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    yield SandboxService(runner, settings)
    await runner.close()


PROGRAM = Program(argv=("true",))


def test_scope_when_a_viewer_then_not_among_theirs() -> None:
    assert principal().may(Scope.SANDBOX)
    assert not principal(Role.VIEWER).may(Scope.SANDBOX)
    assert permissions.granted(principal(), ["sandbox"]) == ("sandbox",)
    with pytest.raises(Forbidden):
        permissions.granted(principal(Role.VIEWER), ["sandbox"])


async def test_every_use_when_the_scope_is_missing_then_forbidden(service: SandboxService) -> None:
    viewer = principal(Role.VIEWER)
    for work in (service.run(viewer, PROGRAM), service.begun(viewer, PROGRAM),
                 service.known_offer(viewer), service.ready_offer(viewer),
                 service.offer_with(viewer, lambda _: True)):  # fmt: skip
        with pytest.raises(Forbidden, match="'sandbox'"):
            await work
    with pytest.raises(Forbidden):
        service.offer(viewer)


class Slow(Backend):
    """Its trials of compilers take as long as the test wants."""

    async def run(self, request: RunRequest) -> RunResult:
        await self.go.wait()
        return result_of()


@pytest.mark.parametrize("backend", [Slow], indirect=True)
async def test_offer_when_languages_are_still_tried_then_waits_only_for_what_it_lacks(
    service: SandboxService, backend: Backend
) -> None:
    now = await service.offer_with(
        principal(), lambda offer: "python" in [each.name for each in offer.languages]
    )
    assert not now.complete

    later = asyncio.create_task(service.offer_with(principal(), lambda _: False))
    await asyncio.sleep(0.01)
    assert not later.done()
    backend.go.set()
    assert (await later).complete


async def test_run_when_the_hour_is_used_up_then_refused_with_the_time(backend: Backend) -> None:
    settings = Settings(sandbox=SandboxSettings(runs_per_hour=1))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings)
    backend.go.set()

    await service.run(principal(), PROGRAM)

    with pytest.raises(RateLimited, match="at most 1 runs"):
        await service.begun(principal(), PROGRAM)
    await runner.close()


class Refusing(Backend):
    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        raise InvalidInput.at("argv", "is too long")


@pytest.mark.parametrize("backend", [Refusing], indirect=True)
async def test_run_when_it_never_begins_then_it_counts_for_nothing(backend: Backend) -> None:
    settings = Settings(sandbox=SandboxSettings(runs_per_hour=1))
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings)

    for _ in range(3):
        with pytest.raises(InvalidInput, match="too long"):
            await service.run(principal(), PROGRAM)
    await runner.close()


async def test_quota_when_many_ask_at_once_then_exactly_so_many_run(backend: Backend) -> None:
    settings = Settings(
        sandbox=SandboxSettings(runs_per_hour=10, queue_limit=200, queue_per_user=200)
    )
    runner = SandboxRunner({"test": backend}, settings.sandbox)
    await runner.start()
    service = SandboxService(runner, settings)
    backend.go.set()

    asked = [service.run(principal(), PROGRAM) for _ in range(100)]
    ended = await asyncio.gather(*asked, return_exceptions=True)

    assert len(backend.requests) == 10
    assert sum(isinstance(each, RateLimited) for each in ended) == 90
    await runner.close()


async def test_run_when_there_is_no_sandbox_then_the_reason() -> None:
    settings = Settings()
    runner = SandboxRunner({}, settings.sandbox)
    await runner.start()
    with pytest.raises(SandboxUnavailable, match="no sandbox backend"):
        await SandboxService(runner, settings).run(principal(), PROGRAM)


async def test_queue_when_full_then_refused_with_the_place_and_free_again_later(
    service: SandboxService, backend: Backend
) -> None:
    runs = [asyncio.create_task(service.run(principal(), PROGRAM))]
    while not backend.requests:
        await asyncio.sleep(0)
    runs += [asyncio.create_task(service.run(principal(number=n), PROGRAM)) for n in (1, 1, 2)]
    await asyncio.sleep(0.01)
    with pytest.raises(QueueFull) as refused:
        await service.run(principal(number=3), PROGRAM)
    assert refused.value.details["place"] == 4
    assert refused.value.details["queue_limit"] == 3

    backend.go.set()
    assert [(await run).run.ok for run in runs] == [True] * 4
    assert (await service.run(principal(), PROGRAM)).run.stdout == b"done\n"


def test_room_when_one_user_fills_their_part_then_others_still_get_in() -> None:
    room = WaitingRoom(limit=3, per_user=1, retry_after_s=1.0)
    first = room.enter(1)
    with pytest.raises(QueueFull, match="of your runs"):
        room.enter(1)
    assert room.enter(2).number == 2
    first.leave()
    first.leave()
    with room.enter(1) as again:
        assert again.number == 2


async def test_run_when_its_caller_is_cancelled_then_killed_and_its_place_is_free(
    service: SandboxService, backend: Backend
) -> None:
    for _ in range(5):
        run = asyncio.create_task(service.run(principal(), PROGRAM))
        while len(backend.requests) == backend.cancelled:
            await asyncio.sleep(0)
        run.cancel()
        with suppress(asyncio.CancelledError):
            await run
    assert backend.cancelled == 5
    backend.go.set()
    assert (await service.run(principal(), PROGRAM)).run.ok


@pytest.mark.parametrize("backend", [Telling], indirect=True)
async def test_events_when_the_backend_tells_then_as_they_come(
    service: SandboxService, backend: Backend
) -> None:
    events = service.events(principal(), PROGRAM)
    assert await anext(events) == Waits(1)
    assert await anext(events) == Started(True, None, None)
    assert await anext(events) == Output(OutputStream.STDOUT, b"ab" + b"c" * 100)
    backend.go.set()
    last = [event async for event in events]
    assert isinstance(last[-1], Finished)


async def test_events_when_the_backend_can_not_tell_then_said_and_told_at_the_end(
    service: SandboxService, backend: Backend
) -> None:
    backend.go.set()
    events = [event async for event in service.events(principal(), PROGRAM)]

    assert events[1:3] == [Started(False, None, None), Output(OutputStream.STDOUT, b"done\n")]


@pytest.mark.parametrize("backend", [Telling], indirect=True)
async def test_events_when_closed_early_then_the_run_is_killed(
    service: SandboxService, backend: Backend
) -> None:
    events = await service.begun(principal(), PROGRAM)
    async for event in events:
        if isinstance(event, Output):
            break
    await events.aclose()

    assert backend.cancelled == 1


async def test_feed_when_nobody_reads_then_bounded_and_joined() -> None:
    feed = Feed(Started(True, None, None), most=10)
    for _ in range(1000):
        feed.output(OutputStream.STDERR, b"xyz")
    done = asyncio.create_task(asyncio.sleep(0))

    assert [event async for event in feed.until(done)] == [
        Output(OutputStream.STDERR, b"xyzxyzxyzx")
    ]


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"wall_s": 10.5}, "10.5 is not from 0.1 to the 10 that"),
        ({"memory_bytes": 1}, "limits.memory_bytes"),
        ({"processes": 0}, "limits.processes"),
        ({"cpu_s": float("nan")}, "limits.cpu_s"),
        ({"artifact_files": -1}, "limits.artifact_files"),
        ({"memory_bytes": 10**400}, "limits.memory_bytes: a number of hundreds of digits is not"),
    ],
)
def test_limits_when_outside_of_the_boxes_then_both_ends_are_named(
    limits: dict[str, float], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        programs.lowered(Limits(), limits)


def test_limits_when_lower_then_taken() -> None:
    lowered = programs.lowered(Limits(), {"wall_s": 1.5, "processes": 3})

    assert (lowered.wall_s, lowered.processes, lowered.cpu_s) == (1.5, 3, Limits().cpu_s)


def test_program_when_it_has_to_be_built_then_what_the_compiler_said_comes_apart() -> None:
    program = Program(language="C", files=(SandboxFile("a.c", b""),), artifacts=("*",))
    prepared = programs.prepare(program, Limits(), 10, STATUS)
    assert prepared.log
    assert (prepared.language, prepared.version) == ("c", "12.2")
    assert prepared.request.limits.artifact_files == Limits().artifact_files + 1
    told = SandboxFile(prepared.log, b"1 4\noutERR")

    done = prepared.result(result_of(artifacts=(told, SandboxFile("x", b""))))

    assert [file.path for file in done.run.artifacts] == ["x"]
    assert done.build
    assert (done.build.exit_code, done.build.stdout, done.build.stderr) == (1, b"outE", b"RR")
    forged = prepared.result(result_of(artifacts=(SandboxFile(prepared.log, b"\xff"),)))
    assert forged.build is None


@pytest.mark.parametrize("recipe", recipes.RECIPES, ids=lambda recipe: recipe.name)
def test_recipe_when_filled_then_each_name_stays_one_word(recipe: recipes.Recipe) -> None:
    entry = "{sources} '$(x).zz"
    argv = recipes.command(recipe, entry, [entry, "b;c"], ["$x"], "log")

    quoted = "'./{sources} '\"'\"'$(x).zz'"
    if recipe.build:
        assert quoted in argv[2] or "{sources} '\"'\"'$(x)" in argv[2]
    else:
        assert argv == (recipe.tool, f"./{entry}", "$x")
    assert recipes.find(recipe.name.upper()) is recipe


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
    node = recipes.find("node")

    assert node
    assert recipes.command(node, entry, [entry], (), "log") == ("node", named)
