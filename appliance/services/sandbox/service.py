"""Runs callers' programs in the sandbox: who may, how many wait, and what becomes of each."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from msgspec import Struct

from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus, Limits, OutputStream, RunResult
from appliance.domain.users import Principal, Scope, User
from appliance.errors import DeadlineExceeded
from appliance.sandbox.languages import recipes
from appliance.sandbox.runner import SandboxRunner
from appliance.services.accounts import permissions
from appliance.services.sandbox import programs
from appliance.services.sandbox.programs import Prepared, Program, ProgramResult
from appliance.services.sandbox.queue_limit import Place, WaitingRoom
from appliance.services.sandbox.run_events import Event, Feed, Finished, Started, Waits
from appliance.services.sandbox.run_quota import RunQuota

# A turn comes when others end; each of them has a limit of its own.
_TURN_S = 300.0


class Language(Struct, frozen=True):
    """A language that can be run here; `main_file` names a program's file where nobody does."""

    name: str
    version: str
    aliases: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    compiled: bool = False
    main_file: str = ""


class Offer(Struct, frozen=True):
    """What can be run. `complete`: every language has been tried."""

    languages: tuple[Language, ...]
    complete: bool
    status: BackendStatus
    limits: Limits
    live_output: bool


class SandboxService:
    """The use cases of the code-execution API. Every method needs the scope `sandbox`."""

    def __init__(self, runner: SandboxRunner, settings: Settings) -> None:
        own = settings.sandbox
        self._runner = runner
        self._most_files = settings.limits.files
        self._quota = RunQuota()
        self._room = WaitingRoom(own.queue_limit, own.queue_per_user, own.wall_s)

    def offer(self, principal: Principal) -> Offer:
        """Languages, limits and isolation as they are now. Raises Forbidden."""
        permissions.require(principal, Scope.SANDBOX)
        runner = self._runner
        found = tuple(_language(*each) for each in sorted(runner.status.languages.items()))
        return Offer(
            found,
            runner.languages_known,
            runner.status,
            runner.limits(principal.user.plan),
            runner.tells_output,
        )

    async def known_offer(self, principal: Principal) -> Offer:
        """As `offer`, once every language has been tried."""
        permissions.require(principal, Scope.SANDBOX)
        await self._runner.wait_for_languages()
        return self.offer(principal)

    async def ready_offer(self, principal: Principal) -> Offer:
        """As `known_offer`. Raises SandboxUnavailable where nothing can be run."""
        offer = await self.known_offer(principal)
        self._runner.check_ready()
        return offer

    async def offer_with(self, principal: Principal, enough: Callable[[Offer], bool]) -> Offer:
        """As `ready_offer`, but as it is now where that is `enough`: trying can take a minute."""
        permissions.require(principal, Scope.SANDBOX)
        await self._runner.wait_for_start()
        self._runner.check_ready()
        offer = self.offer(principal)
        return offer if enough(offer) else await self.ready_offer(principal)

    async def run(self, principal: Principal, program: Program) -> ProgramResult:
        """Run it to its end; cancelling the call kills it.

        Raises Forbidden, SandboxUnavailable, InvalidInput that names the field, QueueFull,
        RateLimited, and DeadlineExceeded if its turn did not come.
        """
        async with aclosing(self.events(principal, program)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("a run ends with its result, or raises")

    async def events(self, principal: Principal, program: Program) -> AsyncGenerator[Event, None]:
        """Run it and tell how it goes: Waits at once, then Started, Output …, Finished.

        Closing the generator kills the run. Raises as `run` does; what is wrong with the
        program, the queue or the quota before the first event.
        """
        permissions.require(principal, Scope.SANDBOX)
        user = principal.user
        prepared = await self._read(program, user.plan)
        started = Started(self._runner.tells_output, prepared.language, prepared.version)
        feed = Feed(started, prepared.request.limits.output_kept_bytes)
        allowed = self._runner.settings(user.plan)
        with self._room.enter(user.id, allowed.queue_per_user) as place:
            counted = self._quota.take(user.id, allowed.runs_per_hour)
            run = asyncio.create_task(self._run(user, prepared, place, feed))
            try:
                yield Waits(place.number)
                async for event in feed.until(run):
                    yield event
                yield Finished(prepared.result(await run))
            finally:
                await _ended(run)
                if not feed.begun:
                    counted.give_back()

    async def begun(self, principal: Principal, program: Program) -> AsyncGenerator[Event, None]:
        """`events`, once it is sure that the program is in order and has a place in the queue."""
        events = self.events(principal, program)
        return _with_first(await anext(events), events)

    async def _read(self, program: Program, plan: str) -> Prepared:
        runner = self._runner
        await runner.wait_for_start()
        runner.check_ready()
        recipe = recipes.find(program.language or "")
        if recipe is not None and recipe.name not in runner.status.languages:
            await runner.wait_for_languages()
        limits = runner.limits(plan)
        prepared = programs.prepare(program, limits, self._most_files, runner.status)
        runner.check(prepared.request)
        return prepared

    async def _run(self, user: User, prepared: Prepared, place: Place, feed: Feed) -> RunResult:
        try:
            async with asyncio.timeout(_TURN_S) as turn:
                watcher = _Watcher(place, feed, turn)
                return await self._runner.run_of(user.id, user.plan, prepared.request, watcher)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no sandbox became free within {_TURN_S:.0f} s; try again later"
            ) from None


class _Watcher:
    """Hears of the run: when it begins it no longer waits."""

    def __init__(self, place: Place, feed: Feed, turn: asyncio.Timeout) -> None:
        self._place = place
        self._feed = feed
        self._turn = turn

    def started(self) -> None:
        if not self._turn.expired():
            self._turn.reschedule(None)
        self._place.leave()
        self._feed.start()

    def output(self, stream: OutputStream, data: bytes) -> None:
        self._feed.output(stream, data)


async def _with_first(
    first: Event, rest: AsyncGenerator[Event, None]
) -> AsyncGenerator[Event, None]:
    async with aclosing(rest):
        yield first
        async for event in rest:
            yield event


async def _ended(run: "asyncio.Task[RunResult]") -> None:
    run.cancel()
    await asyncio.wait({run})
    if not run.cancelled():
        run.exception()  # looked at: who closes the events early has no use for it


def _language(name: str, version: str) -> Language:
    recipe = recipes.find(name)
    if recipe is None:
        return Language(name, version)
    return Language(
        name, version, recipe.aliases, recipe.extensions, bool(recipe.build), recipe.main_file
    )
