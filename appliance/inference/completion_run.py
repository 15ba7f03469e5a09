"""One completion on its way: its events, its report, and its end in the books."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from msgspec.structs import replace

from appliance import telemetry
from appliance.domain.completions import CacheStatus, Report
from appliance.domain.messages import CompletionEvent, Finished, TextDelta, TokenUsage
from appliance.domain.usage import UsageRecord, UsageStatus
from appliance.errors import ApplianceError
from appliance.inference.attempts.attempt_log import Begun, Trace
from appliance.inference.attempts.fallback import Chain
from appliance.inference.attempts.streams import Stream, Streams
from appliance.inference.request import provider_boundary
from appliance.inference.request.call import CompletionCall
from appliance.inference.request.deadline import Deadline, Deadlines
from appliance.inference.request.route import Route
from appliance.inference.response_cache import ResponseCache
from appliance.inference.usage.recorder import Books
from appliance.spi.provider import Provider

Fingerprint = Callable[[Route], Awaitable[str]]


@dataclass(frozen=True)
class Machinery:
    """What completions run on. `clock` gives seconds; `deadlines` are for whole completions."""

    provider: Callable[[str], Provider]
    chain: Chain
    books: Books
    cache: ResponseCache
    fingerprint: Fingerprint
    clock: Callable[[], float]
    deadlines: Deadlines


class Running:
    """Implements services.completions.Completion.

    `begin` runs it up to its first event; iterating begins it too. It may be read from
    another task than the one that began it, but from one at a time.
    """

    def __init__(self, call: CompletionCall, machinery: Machinery) -> None:
        self._call = call
        self._with = machinery
        self._trace = Trace(machinery.clock())
        self._route = call.route
        self._usage = TokenUsage()
        self._cost: float | None = None
        self._cache = CacheStatus.BYPASS
        self._events: AsyncGenerator[CompletionEvent, None] | None = None
        self._first: CompletionEvent | None = None

    @property
    def report(self) -> Report:
        return Report(
            provider=self._route.provider,
            model=self._route.model,
            attempts=tuple(self._trace.attempts),
            cache=self._cache,
            usage=self._usage,
            cost=self._cost,
            waited_s=self._trace.waited_s,
            overhead_s=self._trace.overhead_s,
        )

    async def begin(self) -> None:
        """Wait for the first event. Raises what Completions.start raises."""
        self._first = await anext(await self._chosen())

    def __aiter__(self) -> AsyncIterator[CompletionEvent]:
        return self

    async def __anext__(self) -> CompletionEvent:
        if self._first is None:
            return await anext(self._events or await self._chosen())
        first, self._first = self._first, None
        return first

    async def aclose(self) -> None:
        """End it at once, wherever it is, and settle what was used."""
        if self._events is not None:
            await self._events.aclose()

    async def _chosen(self) -> AsyncGenerator[CompletionEvent, None]:
        """An earlier answer, or a new one, kept for later where it is determined."""
        key = await self._key(self._route)
        kept = self._with.cache.get(key) if key else None
        self._cache = _status(key, kept)
        telemetry.observe_cache(self._cache)
        if kept is None:
            self._events = self._recorded() if key else self._generate()
        else:
            self._events = self._replayed(kept)
        return self._events

    async def _replayed(
        self, kept: Sequence[CompletionEvent]
    ) -> AsyncGenerator[CompletionEvent, None]:
        self._trace.began_to_answer(self._with.clock())
        for event in kept:
            self._usage = event.usage if isinstance(event, Finished) else self._usage
            yield event

    async def _recorded(self) -> AsyncGenerator[CompletionEvent, None]:
        events: list[CompletionEvent] = []
        async with aclosing(self._generate()) as generated:
            async for event in generated:
                events.append(event)
                # Before the reader has it: the last event may be the last thing it asks for.
                if isinstance(event, Finished):
                    await self._keep(events)
                yield event

    async def _generate(self) -> AsyncGenerator[CompletionEvent, None]:
        self._with.books.require_room()
        deadline = self._with.deadlines.begin()
        try:
            begun = await self._begun(deadline)
        except BaseException:
            deadline.close()
            raise
        record = self._with.books.open(self._call, begun.route)
        status, pieces = UsageStatus.CANCELLED, 0
        try:
            event = begun.answer.first
            with provider_boundary.Asking(begun.route):
                while not isinstance(event, Finished):
                    pieces += isinstance(event, TextDelta)
                    yield event
                    event = await deadline.keep(begun.answer.rest.__anext__)
            self._usage, status = event.usage, UsageStatus.COMPLETED
        except ApplianceError:
            status = UsageStatus.FAILED
            raise
        finally:
            deadline.close()
            # Closed before it is settled: only then a provider knows what was used.
            try:
                await provider_boundary.close(begun.answer.rest)
            finally:
                self._settle(begun, record, status, pieces)
                begun.entered.release()
        yield event

    async def _begun(self, deadline: Deadline) -> Begun[Stream]:
        ends_at = self._trace.began + self._with.deadlines.seconds
        streams = Streams(self._call, self._with.provider, self._with.books)
        chain = self._with.chain
        begun = await deadline.keep(
            lambda: chain.begin(self._call, streams.open, self._trace, ends_at, streams.drop)
        )
        now = self._with.clock()
        self._route = begun.route
        self._trace.began_to_answer(now)
        telemetry.observe_first_token(
            begun.route.provider, begun.route.model, now - self._trace.began
        )
        return begun

    def _settle(
        self, begun: Begun[Stream], record: UsageRecord, status: UsageStatus, pieces: int
    ) -> None:
        exact = status is UsageStatus.COMPLETED
        if not exact:
            known = provider_boundary.used(begun.answer.rest)
            self._usage, exact = known or self._call.size.seen(pieces), known is not None
        self._cost = self._with.books.settle(record, self._usage, status, exact=exact).cost
        begun.entered.settle(self._usage, self._cost)
        telemetry.observe_tokens(
            record.provider, record.model, self._usage.prompt_tokens, self._usage.completion_tokens
        )
        if drafted := self._usage.drafted_tokens:
            accepted = self._usage.accepted_tokens
            telemetry.observe_drafts(record.provider, record.model, drafted, accepted)
        if self._cost:
            telemetry.observe_cost(record.provider, record.model, self._cost)

    async def _key(self, route: Route) -> bytes | None:
        """Where an answer by this model is kept; None if this one is not to be."""
        request, cache = self._call.request, self._with.cache
        if not self._call.may_cache or not cache.takes(request):
            return None
        fingerprint = await self._with.fingerprint(route)
        return cache.key(route.provider, fingerprint, replace(request, model=route.model))

    async def _keep(self, events: list[CompletionEvent]) -> None:
        """Under the model that answered, which need not be the one first asked."""
        key = await self._key(self._route)
        if key:
            self._with.cache.put(key, events)


def _status(key: bytes | None, kept: object) -> CacheStatus:
    if key is None:
        return CacheStatus.BYPASS
    return CacheStatus.MISS if kept is None else CacheStatus.HIT
