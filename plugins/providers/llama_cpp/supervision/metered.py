"""A stream of events that says what it used, also where it was ended early."""

from collections.abc import AsyncGenerator, Callable

from appliance.domain.messages import CompletionEvent, TokenUsage

Events = AsyncGenerator[CompletionEvent, None]


class Metered:
    """Implements appliance.spi.provider.MeteredStream; whoever makes the events sets `usage`."""

    def __init__(self, make: Callable[["Metered"], Events]) -> None:
        self.usage: TokenUsage | None = None
        self._events = make(self)

    def __aiter__(self) -> "Metered":
        return self

    async def __anext__(self) -> CompletionEvent:
        return await anext(self._events)

    async def aclose(self) -> None:
        """End it at once, wherever it is."""
        await self._events.aclose()
