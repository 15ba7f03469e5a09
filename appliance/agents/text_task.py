"""Tasks that answer with text: one candidate, streamed into the journal as it is written."""

import asyncio

from appliance.agents import result_builder
from appliance.agents.code import answer_parser
from appliance.agents.run.agent_journal import AgentJournal, Generation
from appliance.agents.run.execution_plan import sample_candidate
from appliance.agents.run.run_context import RunContext
from appliance.domain.tasks import TaskResult
from appliance.errors import DeadlineExceeded


async def run_text_task(context: RunContext) -> TaskResult:
    """The answer. Raises DeadlineExceeded if it was not finished in time."""
    generation = context.journal.generations.get((0, 0)) or await _generate(context)
    answer = answer_parser.parse_answer(generation.text)
    return result_builder.build_text_result(context, generation, answer)


async def _generate(context: RunContext) -> Generation:
    sampling = sample_candidate(context.plan, 0, 0)
    text = _ResumedText(context.journal)
    try:
        async with asyncio.timeout(context.task_context.remaining_s()):
            generation = await context.writer.write(
                context.messages, sampling, context.plan.max_tokens, text.append
            )
    except TimeoutError:
        raise DeadlineExceeded(
            "the answer was not finished before the task's deadline; "
            "give the task more time or fewer tokens"
        ) from None
    await context.journal.record_generation(generation)
    return generation


class _ResumedText:
    """Records text without repeating what an interrupted attempt has recorded already.

    The same seed usually yields the same text again. Where it does not, a progress event says
    that the answer starts over.
    """

    def __init__(self, journal: AgentJournal) -> None:
        self._journal = journal
        self._earlier = journal.text
        self._repeated = ""

    async def append(self, text: str) -> None:
        if not self._earlier:
            await self._journal.record_text(text)
            return
        self._repeated += text
        if self._repeated.startswith(self._earlier):
            new = self._repeated[len(self._earlier) :]
            self._earlier = ""
            if new:
                await self._journal.record_text(new)
        elif not self._earlier.startswith(self._repeated):
            self._earlier = ""
            await self._journal.record_progress(
                "interrupted; the answer starts over", "restart", 10
            )
            await self._journal.record_text(self._repeated)
