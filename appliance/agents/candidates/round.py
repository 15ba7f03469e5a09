"""The candidates of one round: generated at once, each verified as soon as it is written."""

import asyncio
from collections.abc import Sequence

from appliance.agents.code import answer_parser, solution
from appliance.agents.run.agent_journal import Generated
from appliance.agents.run.candidate import Candidate, unfinished
from appliance.agents.run.context import Work
from appliance.agents.run.plan import Draw, draw
from appliance.agents.verification.verifier import Verifier
from appliance.domain.messages import Message
from appliance.domain.tasks import BranchStatus, CollapseStrategy
from appliance.errors import ApplianceError, ContextLengthExceeded, Unavailable

_STOPPED = "stopped: another candidate had passed, or the time was over"
_TOO_LATE = "stopped: no time was left to finish it"
# Of the time left: then the candidates verified so far have to do.
_LAST_MOMENT = 0.95


class Branches:
    """Runs rounds of candidates for one plan."""

    def __init__(self, work: Work, verifier: Verifier) -> None:
        self._context = work.context
        self._plan = work.plan
        self._aim = work.way.aim
        self._writer = work.writer
        self._journal = work.journal
        self._compares = work.compares
        self._verifier = verifier

    async def run(
        self, round_: int, messages: Sequence[Message], max_tokens: int, seconds: float
    ) -> list[Candidate]:
        """All candidates of a round, in the order of their branches.

        Generation stops after `seconds`. A branch that fails is reported as failed; if
        all do, the first one's error is raised. SandboxUnavailable ends the round.
        """
        draws = [draw(self._plan, round_, branch) for branch in range(self._plan.branches)]
        errors: list[ApplianceError] = []
        running = [
            asyncio.create_task(self._branch(drawn, messages, max_tokens, seconds, errors))
            for drawn in self._worth_running(draws)
        ]
        done = {candidate.key: candidate for candidate in await self._until_enough(running)}
        candidates = [
            done.get((d.round, d.branch)) or unfinished(d, BranchStatus.CANCELLED, _STOPPED)
            for d in draws
        ]
        if errors and all(c.status is BranchStatus.FAILED for c in candidates):
            raise errors[0]
        return candidates

    def _worth_running(self, draws: Sequence[Draw]) -> list[Draw]:
        """All, unless an earlier attempt had stopped them because one candidate had passed."""
        if self._plan.strategy is not CollapseStrategy.FIRST_SUCCESS:
            return list(draws)
        passed = [d for d in draws if self._passed_before(d)]
        return passed or list(draws)

    def _passed_before(self, drawn: Draw) -> bool:
        verdict = self._journal.verdicts.get((drawn.round, drawn.branch))
        return verdict is not None and verdict.verification.ok

    async def _until_enough(self, running: Sequence[asyncio.Task[Candidate]]) -> list[Candidate]:
        """Those that ended; the others are cancelled, and have ended when this returns."""
        done: list[Candidate] = []
        pending = set(running)
        ends = self._context.remaining_s() * _LAST_MOMENT
        deadline = asyncio.get_running_loop().time() + ends
        try:
            while pending and not self._enough(done):
                left = deadline - asyncio.get_running_loop().time()
                ended, pending = await asyncio.wait(
                    pending, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                if not ended:
                    break
                done += [task.result() for task in ended]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return done

    def _enough(self, done: Sequence[Candidate]) -> bool:
        first_wins = self._plan.strategy is CollapseStrategy.FIRST_SUCCESS
        return first_wins and any(candidate.ok for candidate in done)

    async def _branch(
        self,
        drawn: Draw,
        messages: Sequence[Message],
        max_tokens: int,
        seconds: float,
        errors: list[ApplianceError],
    ) -> Candidate:
        """One candidate to its verdict; what an earlier attempt journalled is taken from there."""
        generated = self._journal.candidates.get((drawn.round, drawn.branch))
        try:
            if generated is None:
                async with asyncio.timeout(seconds):
                    generated = await self._writer.write(messages, drawn, max_tokens)
                await self._journal.candidate(generated)
        except TimeoutError:
            return unfinished(drawn, BranchStatus.CANCELLED, _TOO_LATE)
        except (ContextLengthExceeded, Unavailable) as error:
            errors.append(error)
            return unfinished(drawn, BranchStatus.FAILED, error.message)
        return await self._judged(drawn, generated)

    async def _judged(self, drawn: Draw, generated: Generated) -> Candidate:
        answer = answer_parser.parse(generated.text, self._aim.language)
        built = solution.build(answer, self._aim)
        verdict = self._journal.verdicts.get((drawn.round, drawn.branch))
        if verdict is None:
            verdict = await self._verifier.verify(built)
            # Comparing the candidates gives the verdicts later; this one is on the syntax alone.
            if not self._compares:
                await self._journal.verdict(drawn, verdict)
        return Candidate(drawn, BranchStatus.COMPLETED, generated, built, verdict)
