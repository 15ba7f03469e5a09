"""Runs callers' programs in the sandbox: permission, validation, queue, quota, events."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec import Struct

from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus, Limits, OutputStream, RunRequest, RunResult
from appliance.domain.users import Principal, Scope, User
from appliance.errors import DeadlineExceeded
from appliance.sandbox.languages import recipes
from appliance.sandbox.runner import SandboxRunner
from appliance.services.accounts import permissions
from appliance.services.sandbox import programs
from appliance.services.sandbox.programs import PreparedProgram, Program, ProgramResult
from appliance.services.sandbox.queue_limit import QueueLimit, QueuePlace
from appliance.services.sandbox.run_events import Finished, Queued, RunEvent, RunEvents, Started
from appliance.services.sandbox.run_quota import RunQuota
from appliance.spi.sandbox import RunWatcher
from appliance.store.database import Database

Execute = Callable[[RunRequest, RunWatcher], Awaitable[RunResult]]

# Generous: the queue moves when runs end, and each run has its own time limit.
_QUEUE_TIMEOUT_S = 300.0


class Language(Struct, frozen=True):
    """A language that can be run; `main_file` is the default name of a program's file."""

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    compiled: bool = False
    main_file: str = ""


class SandboxCapabilities(Struct, frozen=True):
    """Languages, limits and isolation. `complete`: detection of the languages has finished."""

    languages: tuple[Language, ...]
    complete: bool
    status: BackendStatus
    limits: Limits
    live_output: bool


class SandboxService:
    """The use cases of the code-execution API. Every method requires the scope `sandbox`."""

    def __init__(self, runner: SandboxRunner, settings: Settings, db: Database) -> None:
        limits = settings.sandbox
        self._runner = runner
        self._max_files = settings.limits.files
        self._quota = RunQuota(db)
        self._queue_limit = QueueLimit(limits.queue_limit, limits.queue_per_user, limits.wall_s)

    def describe(self, principal: Principal) -> SandboxCapabilities:
        """The current capabilities. Raises Forbidden."""
        permissions.require_scope(principal, Scope.SANDBOX)
        runner = self._runner
        languages = sorted(runner.status.languages.items())
        return SandboxCapabilities(
            tuple(_describe_language(name, version) for name, version in languages),
            runner.languages_detected,
            runner.status,
            runner.limits(principal.user.plan),
            runner.streams_output,
        )

    async def describe_complete(self, principal: Principal) -> SandboxCapabilities:
        """The capabilities once every language has been detected, which can take a minute."""
        permissions.require_scope(principal, Scope.SANDBOX)
        await self._runner.wait_for_languages()
        return self.describe(principal)

    async def describe_ready(self, principal: Principal) -> SandboxCapabilities:
        """As `describe_complete`. Raises SandboxUnavailable if nothing can be run."""
        capabilities = await self.describe_complete(principal)
        self._runner.check_ready()
        return capabilities

    async def describe_sufficient(
        self, principal: Principal, is_sufficient: Callable[[SandboxCapabilities], bool]
    ) -> SandboxCapabilities:
        """The current capabilities if they are sufficient, else as `describe_ready`."""
        permissions.require_scope(principal, Scope.SANDBOX)
        await self._runner.wait_for_start()
        self._runner.check_ready()
        capabilities = self.describe(principal)
        if is_sufficient(capabilities):
            return capabilities
        return await self.describe_ready(principal)

    async def run(self, principal: Principal, program: Program) -> ProgramResult:
        """Run a program to its end; cancelling the call kills it.

        Raises Forbidden, SandboxUnavailable, InvalidInput, QueueFull, RateLimited, and
        DeadlineExceeded if the run waits longer than _QUEUE_TIMEOUT_S.
        """
        async with aclosing(self.events(principal, program)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("the events of a run end with Finished or an error")

    async def events(
        self, principal: Principal, program: Program, execute: Execute | None = None
    ) -> AsyncGenerator[RunEvent, None]:
        """Run a program and yield its events: Queued, Started, Output …, Finished.

        `execute` runs it, by default in a sandbox without a session. Closing the generator kills
        the run. Raises as `run` does; errors of the program, the queue and the quota come before
        the first event.
        """
        permissions.require_scope(principal, Scope.SANDBOX)
        user = principal.user
        prepared = await self._prepare(program, user.plan)
        started = Started(self._runner.streams_output, prepared.language, prepared.version)
        run_events = RunEvents(started, prepared.request.limits.output_kept_bytes)
        allowed = self._runner.settings_for_plan(user.plan)
        with self._queue_limit.admit(user.id, allowed.queue_per_user) as place:
            quota_use = await self._quota.count_run(user.id, allowed.runs_per_hour)
            start = execute or self._execute_for(user)
            run = asyncio.create_task(self._run(start, prepared, place, run_events))
            try:
                yield Queued(place.number)
                async for event in run_events.follow(run):
                    yield event
                result = ProgramResult(await run, prepared.language, prepared.version)
                yield Finished(result)
            finally:
                await _cancel_run(run)
                if not run_events.is_started:
                    await quota_use.release()

    async def open_events(
        self, principal: Principal, program: Program
    ) -> AsyncGenerator[RunEvent, None]:
        """As `events`, but raises errors of the program, the queue and the quota at once."""
        events = self.events(principal, program)
        return _prepend(await anext(events), events)

    async def _prepare(self, program: Program, plan: str) -> PreparedProgram:
        runner = self._runner
        await runner.wait_for_start()
        runner.check_ready()
        recipe = recipes.find_recipe(program.language or "")
        if recipe is not None and recipe.name not in runner.status.languages:
            await runner.wait_for_languages()
        limits = runner.limits(plan)
        prepared = programs.prepare_program(program, limits, self._max_files, runner.status)
        runner.check_request(prepared.request)
        return prepared

    def _execute_for(self, user: User) -> Execute:
        return lambda request, watcher: self._runner.run_for_user(
            user.id, user.plan, request, watcher
        )

    async def _run(
        self, execute: Execute, prepared: PreparedProgram, place: QueuePlace, run_events: RunEvents
    ) -> RunResult:
        try:
            async with asyncio.timeout(_QUEUE_TIMEOUT_S) as timeout:
                watcher = _RunWatcher(place, run_events, timeout)
                return await execute(prepared.request, watcher)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no sandbox became free within {_QUEUE_TIMEOUT_S:.0f} s; try again later"
            ) from None


class _RunWatcher:
    """Receives the runner's callbacks; the start of the run ends its wait in the queue."""

    def __init__(self, place: QueuePlace, run_events: RunEvents, timeout: asyncio.Timeout) -> None:
        self._place = place
        self._run_events = run_events
        self._timeout = timeout

    def started(self) -> None:
        if not self._timeout.expired():
            self._timeout.reschedule(None)
        self._place.release()
        self._run_events.add_start()

    def output(self, stream: OutputStream, data: bytes) -> None:
        self._run_events.add_output(stream, data)


async def _prepend(
    first: RunEvent, rest: AsyncGenerator[RunEvent, None]
) -> AsyncGenerator[RunEvent, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _cancel_run(run: "asyncio.Task[RunResult]") -> None:
    run.cancel()
    await asyncio.wait({run})
    if not run.cancelled():
        run.exception()  # mark as retrieved: nobody awaits the run any more


def _describe_language(name: str, version: str) -> Language:
    recipe = recipes.find_recipe(name)
    if recipe is None:
        return Language(name, version)
    return Language(
        name, version, recipe.aliases, recipe.extensions, bool(recipe.build), recipe.main_file
    )
