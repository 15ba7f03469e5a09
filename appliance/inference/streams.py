"""Providers' answers as streams whose first event is there."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from appliance.domain.messages import CompletionEvent, Finished, TextDelta
from appliance.domain.usage import UsageStatus
from appliance.inference import foreign
from appliance.inference.call import CompletionCall
from appliance.inference.ledger import Books
from appliance.inference.routes import Route
from appliance.spi.provider import Provider


@dataclass(frozen=True)
class Stream:
    """`rest` is to be closed."""

    first: CompletionEvent
    rest: AsyncIterator[CompletionEvent]


@dataclass(frozen=True)
class Streams:
    """Opens what providers answer to one call."""

    call: CompletionCall
    provider: Callable[[str], Provider]
    books: Books

    async def open(self, route: Route) -> Stream:
        """One candidate, up to its first event."""
        request = replace(self.call.request, model=route.model)
        rest = self.provider(route.provider).stream(request)
        try:
            return Stream(await foreign.asked(route, anext(rest)), rest)
        except BaseException:
            await foreign.close(rest)
            raise

    async def drop(self, route: Route, stream: Stream) -> None:
        """End one that nobody needs. It has begun, so what was seen of it is in the books."""
        first = stream.first
        seen = self.call.size.seen(int(isinstance(first, TextDelta)))
        exact = isinstance(first, Finished)
        usage = first.usage if isinstance(first, Finished) else seen
        record = self.books.open(self.call, route)
        self.books.settle(record, usage, UsageStatus.CANCELLED, exact=exact)
        await foreign.asked(route, foreign.close(stream.rest))
