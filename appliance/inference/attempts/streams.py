"""Providers' answers as streams whose first event is there."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from msgspec.structs import replace

from appliance.domain.messages import CompletionEvent, Finished, TextDelta, TokenUsage
from appliance.domain.usage import UsageStatus
from appliance.inference.request import provider_boundary
from appliance.inference.request.call import CompletionCall
from appliance.inference.request.route import Route
from appliance.inference.usage.recorder import Books
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
            return Stream(await provider_boundary.asked(route, anext(rest)), rest)
        except BaseException:
            await provider_boundary.close(rest)
            self._note(route, rest)
            raise

    async def drop(self, route: Route, stream: Stream) -> None:
        """End one that nobody needs. It has begun, so what was used of it is in the books."""
        record = self.books.open(self.call, route)
        try:
            await provider_boundary.asked(route, provider_boundary.close(stream.rest))
        finally:
            known = _known(stream)
            usage = known or self.call.size.seen(int(isinstance(stream.first, TextDelta)))
            self.books.settle(record, usage, UsageStatus.CANCELLED, exact=known is not None)

    def _note(self, route: Route, rest: AsyncIterator[CompletionEvent]) -> None:
        """Whoever left before the first event has had a prompt read, as far as that got."""
        usage = provider_boundary.used(rest)
        if usage is not None and usage.total_tokens:
            record = self.books.open(self.call, route)
            self.books.settle(record, usage, UsageStatus.CANCELLED, exact=True)


def _known(stream: Stream) -> TokenUsage | None:
    if isinstance(stream.first, Finished):
        return stream.first.usage
    return provider_boundary.used(stream.rest)
