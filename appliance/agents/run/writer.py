"""Writes one candidate: sends the messages to the model and collects the streamed answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from appliance.agents.run.agent_journal import Generation
from appliance.agents.run.execution_plan import CandidateSampling
from appliance.domain.messages import (
    Finished,
    Message,
    Sampling,
    TextDelta,
)
from appliance.domain.tasks import Priority
from appliance.domain.usage import TaskCalls
from appliance.errors import ProviderFailed
from appliance.inference import Gateway, Route

BATCH_S = 0.2

OnText = Callable[[str], Awaitable[None]]


class Writer:
    """Asks one model on behalf of one task; its candidates share their cached prefix.

    `shared_system` is a system message without a caller's text: its prefix cache may serve all
    users.
    """

    def __init__(
        self,
        gateway: Gateway,
        route: Route,
        owner: str,
        *,
        priority: Priority,
        shared_system: Message | None,
        calls: TaskCalls,
    ) -> None:
        self._gateway = gateway
        self._route = route
        self._owner = owner
        self._shared_system = shared_system
        self._priority = priority
        self._calls = calls

    async def count_tokens(self, messages: Sequence[Message]) -> int:
        return await self._gateway.count_tokens(self._route, messages, self._owner)

    async def write(
        self,
        messages: Sequence[Message],
        sampling: CandidateSampling,
        max_tokens: int,
        on_text: OnText | None = None,
    ) -> Generation:
        """One completion; `on_text` gets the text in batches of about BATCH_S as it arrives.

        Cancelling the call ends the generation. Raises what spi.Provider.stream raises.
        """
        run = await self._gateway.start_for_task(
            self._route,
            messages,
            Sampling(temperature=sampling.temperature, seed=sampling.seed),
            max_tokens,
            self._owner,
            priority=self._priority,
            shared_system=messages[0] == self._shared_system,
            calls=self._calls,
        )
        started = asyncio.get_running_loop().time()
        text, finished = "", None
        async with aclosing(run):
            batch = _TextBatch(on_text)
            async for event in run:
                if isinstance(event, TextDelta):
                    text += event.text
                    await batch.add(event.text)
                elif isinstance(event, Finished):
                    finished = event
            await batch.flush()
        if finished is None:
            raise ProviderFailed(f"{self._route.provider} ended the answer without saying why")
        report = run.report
        return Generation(
            branch=sampling.branch,
            round=sampling.round,
            text=text,
            seed=sampling.seed,
            temperature=sampling.temperature,
            usage=finished.usage,
            provider=report.provider,
            model=report.model,
            cost=report.cost,
            seconds=round(asyncio.get_running_loop().time() - started, 3),
            finish_reason=finished.reason,
        )


class _TextBatch:
    """Collects text until BATCH_S has passed, so that a journal event holds more than a token."""

    def __init__(self, on_text: OnText | None) -> None:
        self._on_text = on_text
        self._text = ""
        self._since = asyncio.get_running_loop().time()

    async def add(self, text: str) -> None:
        self._text += text
        if asyncio.get_running_loop().time() - self._since >= BATCH_S:
            await self.flush()

    async def flush(self) -> None:
        text, self._text = self._text, ""
        self._since = asyncio.get_running_loop().time()
        if self._on_text is not None and text:
            await self._on_text(text)
