"""Feeding failures back: when it is worth it, and with which messages."""

from collections.abc import Sequence

from appliance.agents.candidates import collapse
from appliance.agents.prompting import prompt
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.context import Work
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy, VerificationLevel

_FEEDBACK_CHARACTERS = (2000, 500, 0)


def worth_it(work: Work, candidates: Sequence[Candidate]) -> bool:
    """Something was held against something, nothing passed, and time is left for as much again."""
    written = [c.generated for c in candidates if c.generated is not None]
    if not written or not _says_what_to_do(work, candidates) or any(c.ok for c in candidates):
        return False
    if work.generation_seconds() < max(g.seconds for g in written):
        work.warnings.append("no time was left to repair the failures")
        return False
    return True


async def messages(work: Work, candidates: Sequence[Candidate]) -> tuple[list[Message], int] | None:
    """The best failure with as much of its output as fits, and the room for the answer."""
    best = collapse.ranked(candidates, CollapseStrategy.BEST_SCORE)[0]
    if best.solution is None or best.verdict is None:
        return None
    for shown in _FEEDBACK_CHARACTERS:
        told = prompt.of_repair(work.messages, best.solution, best.verdict, shown, work.way.aim)
        max_tokens = await work.room_after(told)
        if max_tokens is not None:
            return told, max_tokens
    work.warnings.append("the model has no room for its answer and what was wrong with it")
    return None


def _says_what_to_do(work: Work, candidates: Sequence[Candidate]) -> bool:
    """Candidates that only disagree with each other teach nothing; a syntax error does."""
    if work.compares:
        levels = [c.verdict.verification.level for c in candidates if c.verdict]
        return VerificationLevel.GENERATED_TESTS not in levels
    return work.plan.level is not VerificationLevel.NONE
