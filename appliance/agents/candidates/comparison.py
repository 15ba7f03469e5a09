"""Verdicts by agreement: the calls that the model wrote, and the round compared on them."""

from collections.abc import Sequence

from appliance.agents.candidates import consensus
from appliance.agents.prompting import prompt
from appliance.agents.run.agent_journal import Inputs
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.context import Work
from appliance.agents.run.plan import Draw
from appliance.errors import ContextLengthExceeded, Unavailable

_WANTED = 5
_ENOUGH = 3
_TOKENS = 200


async def compared(work: Work, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with verdicts by agreement, journalled once all are known.

    Candidates that can't be compared (no common function, no calls) keep the verdict
    on their syntax.
    """
    finished = [c for c in candidates if c.solution is not None]
    if all(c.key in work.journal.verdicts for c in finished):
        return candidates
    name = consensus.common_function(finished, work.way.aim)
    calls = await _calls(work, name, finished) if name else ()
    if calls:
        candidates = await consensus.judge(candidates, calls, work.way.aim, work.confined)
    await tell_verdicts(work, candidates)
    return candidates


async def tell_verdicts(work: Work, candidates: Sequence[Candidate]) -> None:
    """Journal the verdicts that are not there yet."""
    for candidate in candidates:
        if candidate.verdict and candidate.key not in work.journal.verdicts:
            await work.journal.verdict(candidate.draw, candidate.verdict)


async def _calls(work: Work, name: str, candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """Calls that the model wrote beside its code, else when asked for some."""
    if work.journal.inputs is not None:
        return work.journal.inputs.calls
    texts = [c.generated.text for c in candidates if c.generated]
    calls, asked = consensus.inputs_in(texts, name), Inputs()
    if len(calls) < _ENOUGH:
        asked = await _asked_for(work, name, candidates)
        calls = list(dict.fromkeys([*calls, *asked.calls]))[: consensus.MOST_INPUTS]
    await work.journal.compared_on(Inputs(tuple(calls), asked.usage))
    return tuple(calls)


async def _asked_for(work: Work, name: str, candidates: Sequence[Candidate]) -> Inputs:
    code = next((c.solution.code for c in candidates if c.solution and c.solution.code), "")
    messages = prompt.of_inputs(code, name, _WANTED)
    drawn = Draw(0, work.plan.branches, work.plan.seed, 0.0)
    try:
        written = await work.writer.write(messages, drawn, _TOKENS)
    except (ContextLengthExceeded, Unavailable) as error:
        work.warnings.append(f"the model could write no tests: {error.message}")
        return Inputs()
    return Inputs(tuple(consensus.inputs_in([written.text], name)), written.usage)
