"""Synthesis (strategy `combined`): the prompt for one more candidate that combines the best."""

from collections.abc import Sequence

from appliance.agents.candidates import collapse
from appliance.agents.code import python_source
from appliance.agents.code.solution import Solution
from appliance.agents.prompting import prompt
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.run_context import RunContext
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy

_MIN_SOLUTIONS, _MAX_SOLUTIONS = 2, 3


async def build_synthesis_prompt(
    context: RunContext, candidates: Sequence[Candidate]
) -> tuple[list[Message], int] | None:
    """Messages that show the best candidates, and the tokens left for the answer.

    None if fewer than two candidates differ or the model's context is too short.
    """
    ranked = collapse.rank_candidates(candidates, CollapseStrategy.COMBINED)
    best = _distinct_solutions(ranked)[:_MAX_SOLUTIONS]
    if len(best) < _MIN_SOLUTIONS:
        return None
    messages = prompt.build_synthesis(context.messages, best, context.spec.target)
    max_tokens = await context.answer_tokens_after(messages)
    if max_tokens is None:
        context.warnings.append("the model's context is too short to combine the best candidates")
        return None
    return messages, max_tokens


def _distinct_solutions(candidates: Sequence[Candidate]) -> list[Solution]:
    """One solution per distinct code; failed candidates only if none passed."""
    passed = [c for c in candidates if c.ok] or candidates
    solutions = [c.solution for c in passed if c.solution and c.solution.code]
    # Reversed twice, so that of equal solutions the best-ranked one stays.
    by_code = {python_source.fingerprint(s.code or ""): s for s in reversed(solutions)}
    return list(by_code.values())[::-1]
