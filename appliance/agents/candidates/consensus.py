"""Tests that the model writes: calls of the function, answered by every candidate.

Nobody knows the right answers, so the candidates judge each other: an answer counts
as right where more than half of those that could be run, and at least two, gave it.
"""

import ast
from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from appliance.agents.code import python_source
from appliance.agents.code.solution import Aim, Solution
from appliance.agents.run.candidate import Candidate
from appliance.agents.verification import examples
from appliance.agents.verification.sandbox_harness import CallsReport, Confined, Ran
from appliance.agents.verification.verifier import Verdict, behaviour_of
from appliance.agents.verification.workspace import assemble
from appliance.domain.tasks import Verification, VerificationLevel

MOST_INPUTS = 10
_FEWEST = 2
_Outcome = str | None


def common_function(candidates: Sequence[Candidate], aim: Aim) -> str | None:
    """The function to compare the candidates by: the one declared, else the one most define."""
    if aim.stub is not None:
        return aim.stub.name
    defined = Counter(
        name for candidate in _comparable(candidates) for name in _public(candidate.solution)
    )
    name, count = defined.most_common(1)[0] if defined else ("", 0)
    return name if count > 1 else None


def inputs_in(texts: Sequence[str], name: str) -> list[str]:
    """Calls of the function with literal arguments, as the model wrote them, without repetition."""
    calls = [call for text in texts for call in examples.literal_calls(text, name)]
    return list(dict.fromkeys(calls))[:MOST_INPUTS]


async def judge(
    candidates: Sequence[Candidate], calls: Sequence[str], aim: Aim, confined: Confined
) -> list[Candidate]:
    """The candidates with verdicts by agreement; those that could not be compared keep theirs."""
    compared: dict[tuple[int, int], tuple[CallsReport, Ran]] = {}
    for candidate in _comparable(candidates):
        if candidate.solution is not None and candidate.solution.main is not None:
            files = assemble(aim.files, candidate.solution)
            pairs = [((), call) for call in calls]
            compared[candidate.key] = await confined.calls(files, candidate.solution.main, pairs)
    answers = {key: _outcomes(report, len(calls)) for key, (report, _) in compared.items()}
    could_be_run = [answers[key] for key, (report, _) in compared.items() if report.loaded]
    agreed = _agreed(could_be_run, len(calls))
    if not any(answer is not None for answer in agreed):
        return list(candidates)
    return [
        replace(c, verdict=_verdict(answers[c.key], agreed, calls, *compared[c.key]))
        if c.key in answers
        else c
        for c in candidates
    ]


def _comparable(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those whose code can be read as Python."""
    return [c for c in candidates if c.solution and c.solution.main and _tree(c.solution)]


def _tree(solution: Solution) -> ast.Module | None:
    return python_source.parse(solution.code) if solution.code else None


def _public(solution: Solution | None) -> list[str]:
    tree = _tree(solution) if solution else None
    names = python_source.functions(tree) if tree else {}
    return [name for name in names if not name.startswith(("_", "test")) and name != "main"]


def _outcomes(report: CallsReport, count: int) -> list[_Outcome]:
    """What each call answered and printed; None where it raised or was not reached."""
    found: list[_Outcome] = [
        None if r.error else f"{r.value}\n{r.printed}" for r in report.results[:count]
    ]
    return found + [None] * (count - len(found))


def _agreed(answers: Sequence[Sequence[_Outcome]], count: int) -> list[_Outcome]:
    """Per call, the answer that more than half and at least two gave; None where none is."""
    agreed: list[_Outcome] = []
    for index in range(count):
        given = Counter(outcomes[index] for outcomes in answers)
        answer, votes = given.most_common(1)[0] if given else (None, 0)
        agreed.append(answer if votes >= _FEWEST and votes * 2 > len(answers) else None)
    return agreed


def _verdict(
    outcomes: Sequence[_Outcome],
    agreed: Sequence[_Outcome],
    calls: Sequence[str],
    report: CallsReport,
    ran: Ran,
) -> Verdict:
    decided = [index for index, answer in enumerate(agreed) if answer is not None]
    differing = [calls[index] for index in decided if outcomes[index] != agreed[index]]
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
            isolation=ran.isolation,
            wall_s=ran.wall_s,
        ),
        behaviour_of(report),
    )
