"""Tasks that answer with text: one candidate, told while it is written."""

import asyncio

from appliance.agents import result_builder
from appliance.agents.code import answer_parser
from appliance.agents.run.agent_journal import Generated, Journal
from appliance.agents.run.context import Work
from appliance.agents.run.plan import draw
from appliance.domain.tasks import TaskResult
from appliance.errors import DeadlineExceeded


async def write_text(work: Work) -> TaskResult:
    """The answer. Raises DeadlineExceeded if it was not finished in time."""
    generated = work.journal.candidates.get((0, 0)) or await _written(work)
    return result_builder.of_text(
        work.plan, generated, answer_parser.parse(generated.text), work.way
    )


async def _written(work: Work) -> Generated:
    drawn, retold = draw(work.plan, 0, 0), _Retold(work.journal)
    try:
        async with asyncio.timeout(work.context.remaining_s()):
            generated = await work.writer.write(
                work.messages, drawn, work.plan.max_tokens, retold.say
            )
    except TimeoutError:
        raise DeadlineExceeded(
            "the answer was not finished before the task's deadline; "
            "give the task more time or fewer tokens"
        ) from None
    await work.journal.candidate(generated)
    return generated


class _Retold:
    """Tells a text that an interrupted attempt had begun to tell, without saying it twice.

    The same seed gives the same text again on the same machine; where it does not,
    the readers are told that the answer starts over.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._told = journal.text
        self._again = ""

    async def say(self, text: str) -> None:
        if not self._told:
            await self._journal.said(text)
            return
        self._again += text
        if self._again.startswith(self._told):
            rest = self._again[len(self._told) :]
            self._told = ""
            if rest:
                await self._journal.said(rest)
        elif not self._told.startswith(self._again):
            self._told = ""
            await self._journal.progress("interrupted; the answer starts over", "restart", 10)
            await self._journal.said(self._again)
