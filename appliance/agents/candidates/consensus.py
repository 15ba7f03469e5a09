"""Consensus: verdicts by majority vote, where no test or example says what is right.

The model writes calls of the function, every candidate answers them in the sandbox, and an answer
counts as right if more than half of the candidates that could be run, and at least two, gave it.
"""

import ast
from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from appliance.agents.code import python_source
from appliance.agents.code.solution import AnswerTarget, Solution
from appliance.agents.prompting import prompt
from appliance.agents.run.agent_journal import ComparisonCalls
from appliance.agents.run.candidate import Candidate
from appliance.agents.run.execution_plan import CandidateSampling
from appliance.agents.run.run_context import RunContext
from appliance.agents.verification import examples
from appliance.agents.verification.sandbox_harness import CallsReport, RunSummary, SandboxHarness
from appliance.agents.verification.verifier import Verdict, behavior_digest
from appliance.agents.verification.workspace import assemble_files
from appliance.domain.tasks import Verification, VerificationLevel
from appliance.errors import ContextLengthExceeded, Unavailable

_MAX_CALLS = 10
# With fewer calls beside the candidates' code, the model is asked for more.
_ENOUGH_CALLS = 3
_REQUESTED_CALLS = 5
_MAX_REQUEST_TOKENS = 200
_MIN_VOTES = 2

# What a call returned and printed; None if it raised or was not reached.
_Outcome = str | None


async def compare_candidates(context: RunContext, candidates: list[Candidate]) -> list[Candidate]:
    """The candidates with verdicts by majority, recorded in the journal once all are known.

    Candidates that can't be compared (no common function, no calls) keep the verdict on their
    syntax.
    """
    finished = [c for c in candidates if c.solution is not None]
    if all(c.key in context.journal.verdicts for c in finished):
        return candidates
    target = context.spec.target
    name = _find_common_function(finished, target)
    calls = await _collect_calls(context, name, finished) if name else ()
    if calls:
        candidates = await judge_by_majority(candidates, calls, target, context.harness)
    await record_verdicts(context, candidates)
    return candidates


async def record_verdicts(context: RunContext, candidates: Sequence[Candidate]) -> None:
    """Record the verdicts that the journal doesn't hold yet."""
    for candidate in candidates:
        if candidate.verdict and candidate.key not in context.journal.verdicts:
            await context.journal.record_verdict(candidate.sampling, candidate.verdict)


async def judge_by_majority(
    candidates: Sequence[Candidate],
    calls: Sequence[str],
    target: AnswerTarget,
    harness: SandboxHarness,
) -> list[Candidate]:
    """The candidates with verdicts by majority; those that could not be compared keep theirs."""
    runs: dict[tuple[int, int], tuple[CallsReport, RunSummary]] = {}
    for candidate in _select_comparable(candidates):
        if candidate.solution is not None and candidate.solution.main is not None:
            files = assemble_files(target.files, candidate.solution)
            pairs = [((), call) for call in calls]
            runs[candidate.key] = await harness.run_calls(files, candidate.solution.main, pairs)
    outcomes = {key: _outcomes_of(report, len(calls)) for key, (report, _) in runs.items()}
    votes = [outcomes[key] for key, (report, _) in runs.items() if report.loaded]
    majority = _majority_outcomes(votes, len(calls))
    if not any(outcome is not None for outcome in majority):
        return list(candidates)
    return [
        replace(c, verdict=_make_verdict(outcomes[c.key], majority, calls, *runs[c.key]))
        if c.key in outcomes
        else c
        for c in candidates
    ]


def _find_common_function(candidates: Sequence[Candidate], target: AnswerTarget) -> str | None:
    """The function to compare: the stub's, else the one that most candidates define."""
    if target.stub is not None:
        return target.stub.name
    defined = Counter(
        name
        for candidate in _select_comparable(candidates)
        for name in _public_functions(candidate.solution)
    )
    name, count = defined.most_common(1)[0] if defined else ("", 0)
    return name if count > 1 else None


async def _collect_calls(
    context: RunContext, name: str, candidates: Sequence[Candidate]
) -> tuple[str, ...]:
    """Calls that the model wrote beside its code and, if these are too few, on request."""
    if context.journal.comparison_calls is not None:
        return context.journal.comparison_calls.calls
    texts = [c.generation.text for c in candidates if c.generation]
    calls, requested = _extract_calls(texts, name), ComparisonCalls()
    if len(calls) < _ENOUGH_CALLS:
        requested = await _request_calls(context, name, candidates)
        calls = list(dict.fromkeys([*calls, *requested.calls]))[:_MAX_CALLS]
    await context.journal.record_comparison_calls(replace(requested, calls=tuple(calls)))
    return tuple(calls)


async def _request_calls(
    context: RunContext, name: str, candidates: Sequence[Candidate]
) -> ComparisonCalls:
    code = next((c.solution.code for c in candidates if c.solution and c.solution.code), "")
    messages = prompt.build_call_request(code, name, _REQUESTED_CALLS)
    sampling = CandidateSampling(0, context.plan.branches, context.plan.seed, 0.0)
    try:
        generation = await context.writer.write(messages, sampling, _MAX_REQUEST_TOKENS)
    except (ContextLengthExceeded, Unavailable) as error:
        context.warnings.append(f"the model could write no tests: {error.message}")
        return ComparisonCalls()
    return ComparisonCalls(
        calls=tuple(_extract_calls([generation.text], name)),
        usage=generation.usage,
        provider=generation.provider,
        model=generation.model,
        cost=generation.cost,
    )


def _extract_calls(texts: Sequence[str], name: str) -> list[str]:
    """Distinct calls of the function with literal arguments in the model's texts."""
    calls = [call for text in texts for call in examples.find_literal_calls(text, name)]
    return list(dict.fromkeys(calls))[:_MAX_CALLS]


def _select_comparable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates whose code is valid Python."""
    return [c for c in candidates if c.solution and c.solution.main and _parse(c.solution)]


def _parse(solution: Solution) -> ast.Module | None:
    return python_source.parse_module(solution.code) if solution.code else None


def _public_functions(solution: Solution | None) -> list[str]:
    tree = _parse(solution) if solution else None
    names = python_source.functions(tree) if tree else {}
    return [name for name in names if not name.startswith(("_", "test")) and name != "main"]


def _outcomes_of(report: CallsReport, count: int) -> list[_Outcome]:
    outcomes: list[_Outcome] = [
        None if r.error else f"{r.value}\n{r.printed}" for r in report.results[:count]
    ]
    return outcomes + [None] * (count - len(outcomes))


def _majority_outcomes(votes: Sequence[Sequence[_Outcome]], count: int) -> list[_Outcome]:
    """The outcome per call that more than half, and at least _MIN_VOTES, agree on, or None."""
    majority: list[_Outcome] = []
    for index in range(count):
        tally = Counter(outcomes[index] for outcomes in votes)
        outcome, agreeing = tally.most_common(1)[0] if tally else (None, 0)
        wins = agreeing >= _MIN_VOTES and agreeing * 2 > len(votes)
        majority.append(outcome if wins else None)
    return majority


def _make_verdict(
    outcomes: Sequence[_Outcome],
    majority: Sequence[_Outcome],
    calls: Sequence[str],
    report: CallsReport,
    summary: RunSummary,
) -> Verdict:
    decided = [index for index, outcome in enumerate(majority) if outcome is not None]
    differing = [calls[index] for index in decided if outcomes[index] != majority[index]]
    passed = len(decided) - len(differing)
    return Verdict(
        Verification(
            level=VerificationLevel.GENERATED_TESTS,
            passed=passed,
            failed=len(differing),
            score=passed / len(decided),
            summary=f"answers {passed} of {len(decided)} calls that the model wrote "
            "as most candidates do",
            output="\n".join([report.error, *(f"{call} differs" for call in differing)]).strip(),
            isolation=summary.isolation,
            wall_s=summary.wall_s,
        ),
        behavior_digest(report),
    )
