"""One completion: from the response cache or a provider, up to its usage record."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from msgspec.structs import replace

from appliance import telemetry
from appliance.domain.completions import CacheStatus, CompletionReport
from appliance.domain.messages import CompletionEvent, Finished, TextDelta, TokenUsage
from appliance.domain.usage import UsageRecord, UsageStatus
from appliance.errors import ApplianceError
from appliance.inference.attempts.attempt_log import AttemptLog, Started
from appliance.inference.attempts.fallback import FallbackChain
from appliance.inference.request import provider_boundary
from appliance.inference.request.call import CompletionCall
from appliance.inference.request.deadline import Deadline, Deadlines
from appliance.inference.request.route import Route
from appliance.inference.response_cache import ResponseCache
from appliance.inference.usage.recorder import UsageRecorder
from appliance.spi.provider import Provider

Fingerprint = Callable[[Route], Awaitable[str]]


@dataclass(frozen=True)
class GatewayServices:
    """What completions and embeddings use. `clock` gives seconds.

    `fingerprint` changes with the model's file; `deadlines` are for whole completions and for
    embeddings.
    """

    provider: Callable[[str], Provider]
    fallback: FallbackChain
    usage: UsageRecorder
    cache: ResponseCache
    fingerprint: Fingerprint
    clock: Callable[[], float]
    deadlines: Deadlines


class CompletionRun:
    """Implements services.completions.service.Completion.

    `start` runs it up to its first event; so does iterating. It may be read from another
    task than the one that started it, by one task at a time.
    """

    def __init__(self, call: CompletionCall, services: GatewayServices) -> None:
        self._call = call
        self._services = services
        self._log = AttemptLog(services.clock())
        self._route = call.route
        self._usage = TokenUsage()
        self._cost: float | None = None
        self._cache_status = CacheStatus.BYPASS
        self._events: AsyncGenerator[CompletionEvent, None] | None = None
        self._first: CompletionEvent | None = None

    @property
    def report(self) -> CompletionReport:
        return CompletionReport(
            provider=self._route.provider,
            model=self._route.model,
            attempts=tuple(self._log.attempts),
            cache=self._cache_status,
            usage=self._usage,
            cost=self._cost,
            waited_s=self._log.waited_s,
            overhead_s=self._log.overhead_s,
        )

    async def start(self) -> None:
        """Wait for the first event. Raises what CompletionService.start raises."""
        self._first = await anext(await self._open_events())

    def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        return self

    async def __anext__(self) -> CompletionEvent:
        if self._first is None:
            return await anext(self._events or await self._open_events())
        first, self._first = self._first, None
        return first

    async def aclose(self) -> None:
        """End the generation at once and settle what was used."""
        if self._events is not None:
            await self._events.aclose()

    async def _open_events(self) -> AsyncGenerator[CompletionEvent, None]:
        key = await self._cache_key(self._route)
        cached = self._services.cache.get(key) if key else None
        self._cache_status = _cache_status(key, cached)
        telemetry.observe_cache(self._cache_status)
        if cached is None:
            self._events = self._generate_and_cache() if key else self._generate()
        else:
            self._events = self._replay(cached)
        return self._events

    async def _replay(
        self, cached: Sequence[CompletionEvent]
    ) -> AsyncGenerator[CompletionEvent, None]:
        self._log.record_first_event(self._services.clock())
        if cached and isinstance(cached[-1], Finished):
            self._usage = replace(cached[-1].usage, completion_tokens=0)
        for event in cached:
            self._usage = event.usage if isinstance(event, Finished) else self._usage
            yield event

    async def _generate_and_cache(self) -> AsyncGenerator[CompletionEvent, None]:
        events: list[CompletionEvent] = []
        async with aclosing(self._generate()) as generated:
            async for event in generated:
                events.append(event)
                # Cached before it is yielded: a reader may stop at the last event.
                if isinstance(event, Finished):
                    await self._put_in_cache(events)
                yield event

    async def _generate(self) -> AsyncGenerator[CompletionEvent, None]:
        self._services.usage.require_capacity()
        deadline = self._services.deadlines.start()
        try:
            started = await self._start_answer(deadline)
        except BaseException:
            deadline.close()
            raise
        self._usage = provider_boundary.prompt_usage(
            started.answer.rest
        ) or self._call.estimate.partial_usage(0)
        record = self._services.usage.reserve(self._call, started.route)
        status, pieces = UsageStatus.CANCELLED, 0
        try:
            event = started.answer.first
            with provider_boundary.ProviderErrors(started.route):
                while not isinstance(event, Finished):
                    pieces += isinstance(event, TextDelta)
                    yield event
                    event = await deadline.run(started.answer.rest.__anext__)
            self._usage, status = event.usage, UsageStatus.COMPLETED
        except ApplianceError:
            status = UsageStatus.FAILED
            raise
        finally:
            deadline.close()
            # A provider knows the usage of a stream only once it is closed.
            try:
                await provider_boundary.close_stream(started.answer.rest)
            finally:
                self._settle(started, record, status, pieces)
                started.permit.release()
        yield event

    async def _start_answer(self, deadline: Deadline) -> "Started[StartedStream]":
        services, log = self._services, self._log
        ends_at = log.started_at + services.deadlines.seconds
        opener = StreamOpener(self._call, services.provider, services.usage)
        started = await deadline.run(
            lambda: services.fallback.start(self._call, opener.open, log, ends_at, opener.discard)
        )
        now = services.clock()
        self._route = started.route
        log.record_first_event(now)
        telemetry.observe_first_token(
            started.route.provider, started.route.model, now - log.started_at
        )
        return started

    def _settle(
        self,
        started: "Started[StartedStream]",
        record: UsageRecord,
        status: UsageStatus,
        pieces: int,
    ) -> None:
        exact = status is UsageStatus.COMPLETED
        if not exact:
            measured = provider_boundary.measured_usage(started.answer.rest)
            self._usage = measured or self._call.estimate.partial_usage(pieces)
            exact = measured is not None
        self._cost = self._services.usage.settle(record, self._usage, status, exact=exact).cost
        started.permit.settle(self._usage, self._cost)
        telemetry.observe_tokens(
            record.provider, record.model, self._usage.prompt_tokens, self._usage.completion_tokens
        )
        if drafted := self._usage.drafted_tokens:
            accepted = self._usage.accepted_tokens
            telemetry.observe_drafts(record.provider, record.model, drafted, accepted)
        if self._cost:
            telemetry.observe_cost(record.provider, record.model, self._cost)

    async def _cache_key(self, route: Route) -> bytes | None:
        """The cache key of an answer by this target; None if it may not be cached."""
        request, cache = self._call.request, self._services.cache
        if not self._call.may_cache or not cache.accepts(request):
            return None
        fingerprint = await self._services.fingerprint(route)
        return cache.key(route.provider, fingerprint, replace(request, model=route.model))

    async def _put_in_cache(self, events: list[CompletionEvent]) -> None:
        """Under the target that answered, which need not be the route's first."""
        key = await self._cache_key(self._route)
        if key:
            self._services.cache.put(key, events)


@dataclass(frozen=True)
class StartedStream:
    """A provider's stream after its first event. `rest` is to be closed."""

    first: CompletionEvent
    rest: AsyncIterator[CompletionEvent]


@dataclass(frozen=True)
class StreamOpener:
    """Opens the streams of one call. Streams that do not serve it are recorded as cancelled."""

    call: CompletionCall
    provider: Callable[[str], Provider]
    usage: UsageRecorder

    async def open(self, route: Route) -> StartedStream:
        """Ask one target, and wait for its first event."""
        request = replace(self.call.request, model=route.model)
        rest = self.provider(route.provider).stream(request)
        try:
            return StartedStream(await provider_boundary.call_provider(route, anext(rest)), rest)
        except BaseException:
            await provider_boundary.close_stream(rest)
            self._record_unstarted(route, rest)
            raise

    async def discard(self, route: Route, stream: StartedStream) -> None:
        """Close a stream that lost a race, and record its usage."""
        record = self.usage.reserve(self.call, route)
        try:
            await provider_boundary.call_provider(
                route, provider_boundary.close_stream(stream.rest)
            )
        finally:
            measured = _usage_of(stream)
            pieces = int(isinstance(stream.first, TextDelta))
            usage = measured or self.call.estimate.partial_usage(pieces)
            self.usage.settle(record, usage, UsageStatus.CANCELLED, exact=measured is not None)

    def _record_unstarted(self, route: Route, rest: AsyncIterator[CompletionEvent]) -> None:
        """A prompt that was processed counts even if the stream ended before its first event."""
        usage = provider_boundary.measured_usage(rest)
        if usage is not None and usage.total_tokens:
            record = self.usage.reserve(self.call, route)
            self.usage.settle(record, usage, UsageStatus.CANCELLED, exact=True)


def _usage_of(stream: StartedStream) -> TokenUsage | None:
    if isinstance(stream.first, Finished):
        return stream.first.usage
    return provider_boundary.measured_usage(stream.rest)


def _cache_status(key: bytes | None, cached: object) -> CacheStatus:
    if key is None:
        return CacheStatus.BYPASS
    return CacheStatus.MISS if cached is None else CacheStatus.HIT
