"""One candidate, from the first token to the last."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from appliance.agents.prompting import personas
from appliance.agents.run.agent_journal import Generated
from appliance.agents.run.plan import Draw
from appliance.domain.completions import Urgency
from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    Message,
    MessageRole,
    Sampling,
    TextDelta,
)
from appliance.domain.tasks import Priority
from appliance.errors import ProviderFailed
from appliance.inference import Gateway, Route

BATCH_S = 0.2

Say = Callable[[str], Awaitable[None]]


class Writer:
    """Asks one model on behalf of one task; its candidates share their computed prefix.

    What was computed for a persona's own words serves everybody. A task that somebody
    waits for takes turns with chats; others stand back.
    """

    def __init__(
        self, gateway: Gateway, route: Route, owner: str, priority: Priority = Priority.NORMAL
    ) -> None:
        self._gateway = gateway
        self._route = route
        self._owner = owner
        awaited = priority is Priority.INTERACTIVE
        self._urgency = Urgency.INTERACTIVE if awaited else Urgency.BATCH

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return await self._gateway.count_tokens(self._route, messages, self._owner)

    async def write(
        self, messages: Sequence[Message], drawn: Draw, max_tokens: int, say: Say | None = None
    ) -> Generated:
        """One completion; `say` gets the text in batches of about BATCH_S while it grows.

        Cancelling it ends the generation. Raises what spi.Provider.stream raises.
        """
        sampling = Sampling(temperature=drawn.temperature, seed=drawn.seed)
        first = messages[0]
        stream = self._gateway.stream(
            self._route,
            messages,
            sampling,
            max_tokens,
            self._owner,
            urgency=self._urgency,
            shared_system=first.role is MessageRole.SYSTEM and personas.is_own(first.content),
        )
        started = asyncio.get_running_loop().time()
        text, finished = "", None
        async with _closing(stream):
            batch = _Batch(say)
            async for event in stream:
                if isinstance(event, TextDelta):
                    text += event.text
                    await batch.add(event.text)
                elif isinstance(event, Finished):
                    finished = event
            await batch.flush()
        if finished is None:
            raise ProviderFailed(f"{self._route.provider} ended the answer without saying why")
        return Generated(
            branch=drawn.branch,
            round=drawn.round,
            text=text,
            seed=drawn.seed,
            temperature=drawn.temperature,
            usage=finished.usage,
            seconds=round(asyncio.get_running_loop().time() - started, 3),
            finish_reason=finished.reason,
        )


class _Batch:
    """Text collected until it is worth a line in the journal."""

    def __init__(self, say: Say | None) -> None:
        self._say = say
        self._text = ""
        self._since = asyncio.get_running_loop().time()

    async def add(self, text: str) -> None:
        self._text += text
        if asyncio.get_running_loop().time() - self._since >= BATCH_S:
            await self.flush()

    async def flush(self) -> None:
        text, self._text = self._text, ""
        self._since = asyncio.get_running_loop().time()
        if self._say is not None and text:
            await self._say(text)


@asynccontextmanager
async def _closing(stream: AsyncIterator[CompletionEvent]) -> AsyncGenerator[None, None]:
    """Closes a stream that can be closed, so that the engine stops at once."""
    try:
        yield
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
