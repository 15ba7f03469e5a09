"""The rounds of a task that answers with code: candidates, comparison, repair, merge."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import Struct, structs

from appliance.agents.candidates import consensus, repair, synthesis
from appliance.agents.candidates.comparison import compared, tell_verdicts
from appliance.agents.candidates.round import Branches
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.context import Work
from appliance.agents.verification.verifier import Verifier
from appliance.domain.messages import Message
from appliance.domain.tasks import CollapseStrategy
from appliance.errors import ContextLengthExceeded, SandboxUnavailable, Unavailable


class Outcome(Struct, frozen=True):
    """All candidates of all rounds; `merged` is the one made out of others, if any."""

    candidates: list[Candidate]
    merged: Candidate | None = None


async def run(work: Work) -> Outcome:
    """Write, judge, repair and combine. Raises what the first round raises."""
    plan, verifier = work.plan, Verifier(work.confined, work.way.checks, work.way.aim)
    branches = Branches(work, verifier)
    if not work.journal.candidates:
        await work.journal.progress(_announced(plan.branches), "generate", 10)
    candidates = await branches.run(0, work.messages, plan.max_tokens, work.generation_seconds())
    if work.compares:
        candidates = await compared(work, candidates)
    for round_ in range(1, plan.repair_rounds + 1):
        if not repair.worth_it(work, candidates):
            break
        candidates = candidates + await _repaired(work, branches, round_, candidates)
    if plan.strategy is not CollapseStrategy.COMBINED:
        return Outcome(candidates)
    merged = await _merged(work, verifier, candidates)
    return Outcome([*candidates, merged], merged) if merged else Outcome(candidates)


async def _repaired(
    work: Work, branches: Branches, round_: int, candidates: Sequence[Candidate]
) -> list[Candidate]:
    told = await repair.messages(work, candidates)
    if told is None:
        return []
    await work.journal.progress(f"nothing passed: repair round {round_}", "repair", 80)
    made = await _further(work, branches, round_, *told)
    return await compared(work, made) if work.compares else made


async def _merged(
    work: Work, verifier: Verifier, candidates: Sequence[Candidate]
) -> Candidate | None:
    told = await synthesis.messages(work, candidates)
    if told is None:
        return None
    await work.journal.progress("combining the best candidates", "combine", 85)
    branches = Branches(replace(work, plan=structs.replace(work.plan, branches=1)), verifier)
    round_ = max(c.draw.round for c in candidates) + 1
    made = await _further(work, branches, round_, *told)
    if work.compares and made and work.journal.inputs:
        calls, aim = work.journal.inputs.calls, work.way.aim
        judged = await consensus.judge([*candidates, *made], calls, aim, work.confined)
        made = judged[len(candidates) :]
        await tell_verdicts(work, made)
    return made[0] if made and made[0].solution else None


async def _further(
    work: Work, branches: Branches, round_: int, messages: Sequence[Message], max_tokens: int
) -> list[Candidate]:
    """A round that may fail: what was found before stays the answer."""
    try:
        return await branches.run(round_, messages, max_tokens, work.generation_seconds())
    except SandboxUnavailable:
        raise
    except (ContextLengthExceeded, Unavailable) as error:
        work.warnings.append(f"round {round_} failed: {error.message}")
        return []


def _announced(branches: int) -> str:
    return "writing one candidate" if branches == 1 else f"writing {branches} candidates"
