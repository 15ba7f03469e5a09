"""One round: its candidates are generated concurrently, each verified as soon as it is written."""

import asyncio
from collections.abc import Sequence

from appliance.agents.code import answer_parser, solution
from appliance.agents.run.agent_journal import Generation
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.execution_plan import CandidateSampling, sample_candidate
from appliance.agents.run.run_context import RunContext
from appliance.agents.verification.verifier import Verifier
from appliance.domain.messages import Message
from appliance.domain.tasks import BranchStatus, CollapseStrategy
from appliance.errors import ApplianceError, ContextLengthExceeded, Unavailable

_STOPPED = "stopped: another candidate had passed, or the task's time was up"
_OUT_OF_TIME = "stopped: it was not finished in the time for this round"
# Share of the remaining time after which the candidates verified so far have to do.
_DEADLINE_SHARE = 0.95


class RoundRunner:
    """Runs rounds of candidates for one plan."""

    def __init__(self, context: RunContext, verifier: Verifier) -> None:
        self._task_context = context.task_context
        self._plan = context.plan
        self._target = context.spec.target
        self._writer = context.writer
        self._journal = context.journal
        self._uses_consensus = context.uses_consensus
        self._verifier = verifier

    async def run(
        self, round_: int, messages: Sequence[Message], max_tokens: int, seconds: float
    ) -> list[Candidate]:
        """All candidates of a round, in the order of their branches.

        Generation stops after `seconds`. A branch that fails is reported as failed; if all fail,
        the error of the first to fail is raised. SandboxUnavailable ends the round.
        """
        samplings = [
            sample_candidate(self._plan, round_, branch) for branch in range(self._plan.branches)
        ]
        errors: list[ApplianceError] = []
        running = [
            asyncio.create_task(self._run_branch(sampling, messages, max_tokens, seconds, errors))
            for sampling in self._select_samplings(samplings)
        ]
        done = {candidate.key: candidate for candidate in await self._wait_for_enough(running)}
        candidates = [
            done.get(sampling.key) or Candidate(sampling, BranchStatus.CANCELLED, problem=_STOPPED)
            for sampling in samplings
        ]
        if errors and all(c.status is BranchStatus.FAILED for c in candidates):
            raise errors[0]
        return candidates

    def _select_samplings(self, samplings: Sequence[CandidateSampling]) -> list[CandidateSampling]:
        """All, unless an earlier attempt stopped the others after the first success."""
        if self._plan.strategy is not CollapseStrategy.FIRST_SUCCESS:
            return list(samplings)
        passed = [sampling for sampling in samplings if self._has_passed(sampling)]
        return passed or list(samplings)

    def _has_passed(self, sampling: CandidateSampling) -> bool:
        verdict = self._journal.verdicts.get(sampling.key)
        return verdict is not None and verdict.verification.ok

    async def _wait_for_enough(self, running: Sequence[asyncio.Task[Candidate]]) -> list[Candidate]:
        """The candidates that finished; the others are cancelled and awaited before returning."""
        done: list[Candidate] = []
        pending = set(running)
        seconds = self._task_context.remaining_s() * _DEADLINE_SHARE
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            while pending and not self._has_winner(done):
                timeout = deadline - asyncio.get_running_loop().time()
                finished, pending = await asyncio.wait(
                    pending, timeout=max(0.0, timeout), return_when=asyncio.FIRST_COMPLETED
                )
                if not finished:
                    break
                done += [task.result() for task in finished]
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return done

    def _has_winner(self, done: Sequence[Candidate]) -> bool:
        first_wins = self._plan.strategy is CollapseStrategy.FIRST_SUCCESS
        return first_wins and any(candidate.ok for candidate in done)

    async def _run_branch(
        self,
        sampling: CandidateSampling,
        messages: Sequence[Message],
        max_tokens: int,
        seconds: float,
        errors: list[ApplianceError],
    ) -> Candidate:
        """One candidate up to its verdict; steps found in the journal are not repeated."""
        generation = self._journal.generations.get(sampling.key)
        try:
            if generation is None:
                async with asyncio.timeout(seconds):
                    generation = await self._writer.write(messages, sampling, max_tokens)
                await self._journal.record_generation(generation)
        except TimeoutError:
            return Candidate(sampling, BranchStatus.CANCELLED, problem=_OUT_OF_TIME)
        except (ContextLengthExceeded, Unavailable) as error:
            errors.append(error)
            return Candidate(sampling, BranchStatus.FAILED, problem=error.message)
        return await self._verify(sampling, generation)

    async def _verify(self, sampling: CandidateSampling, generation: Generation) -> Candidate:
        answer = answer_parser.parse_answer(generation.text, self._target.language)
        built = solution.build_solution(answer, self._target)
        verdict = self._journal.verdicts.get(sampling.key)
        if verdict is None:
            verdict = await self._verifier.verify(built)
            # With consensus this verdict is on the syntax only; the final one comes later.
            if not self._uses_consensus:
                await self._journal.record_verdict(sampling, verdict)
        return Candidate(sampling, BranchStatus.COMPLETED, generation, built, verdict)
