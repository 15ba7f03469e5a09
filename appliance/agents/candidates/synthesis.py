"""The strategy `combined`: one more candidate, made by the model out of the best ones."""

from collections.abc import Sequence

from appliance.agents.candidates import collapse
from appliance.agents.code import python_source
from appliance.agents.code.solution import Solution
from appliance.agents.prompting import prompt
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.context import Work
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy

_FEWEST, _MOST = 2, 3


async def messages(work: Work, candidates: Sequence[Candidate]) -> tuple[list[Message], int] | None:
    """The request with the best different candidates; None where there are not two, or no room."""
    best = _different(collapse.ranked(candidates, CollapseStrategy.COMBINED))[:_MOST]
    if len(best) < _FEWEST:
        return None
    told = prompt.of_merge(work.messages, best, work.way.aim)
    max_tokens = await work.room_after(told)
    if max_tokens is None:
        work.warnings.append("the model has no room to combine the best candidates")
        return None
    return told, max_tokens


def _different(candidates: Sequence[Candidate]) -> list[Solution]:
    """One solution per different code; failures only where nothing passed."""
    passed = [c for c in candidates if c.ok] or candidates
    solutions = [c.solution for c in passed if c.solution and c.solution.code]
    return list({python_source.fingerprint(s.code or ""): s for s in reversed(solutions)}.values())[
        ::-1
    ]
