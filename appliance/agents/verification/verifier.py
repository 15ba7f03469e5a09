"""Holds one candidate against the checks of its task, in the sandbox."""

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from appliance.agents.code import languages
from appliance.agents.code.solution import Aim, Solution
from appliance.agents.verification import caller_tests, syntax
from appliance.agents.verification.checks import Checks
from appliance.agents.verification.examples import Example
from appliance.agents.verification.sandbox_harness import (
    Answered,
    CallsReport,
    Confined,
    Ran,
    TestsReport,
)
from appliance.agents.verification.value_comparison import meets
from appliance.agents.verification.workspace import assemble
from appliance.domain.tasks import SourceFile, Verification, VerificationLevel

_NAMES_SHOWN = 5
_SHOWN = 300
# The last line of a test script, which nothing but reaching it can have run.
_ENDS = {
    languages.JAVASCRIPT: (
        ("node",),
        'import("fs").then((fs) => fs.writeFileSync("{mark}", "{nonce}"));',
    ),
    languages.SHELL: (("sh",), "status=$?; printf %s {nonce} > {mark}; exit $status"),
}


class Verdict(Struct, frozen=True):
    """`behaviour` is the same for candidates that did the same; "" where it was not seen."""

    verification: Verification
    behaviour: str = ""


class Verifier:
    """Judges the candidates of one task. Every method raises SandboxUnavailable."""

    def __init__(self, confined: Confined, checks: Checks, aim: Aim) -> None:
        self._confined = confined
        self._checks = checks
        self._aim = aim

    async def verify(self, solution: Solution) -> Verdict:
        """The verdict on one candidate by itself.

        At the level of generated tests this is a check of the syntax; `agreement`
        then compares the candidates with one another.
        """
        level = self._checks.level
        if level is VerificationLevel.NONE:
            return Verdict(Verification(summary="nothing to hold the answer against"))
        if solution.code is None or solution.main is None:
            return Verdict(_nothing_there(level))
        if level is VerificationLevel.CALLER_TESTS:
            return await self._caller_tests(solution)
        if level is VerificationLevel.EXAMPLES:
            return await self._examples(solution, solution.main)
        if self._aim.writes_tests and level is VerificationLevel.GENERATED_TESTS:
            return await self._written_tests(solution, solution.main, solution.code)
        return Verdict(await syntax.check(self._confined, solution))

    async def _caller_tests(self, solution: Solution) -> Verdict:
        prepared = [caller_tests.prepared(test, solution.main) for test in self._checks.sent]
        files = assemble(self._aim.files, solution, prepared)
        python = [t for t in self._checks.tests if languages.of_path(t.path) == languages.PYTHON]
        scripts = [t for t in self._checks.tests if t not in python]
        tallies: list[_Tally] = []
        if python:
            report, ran = await self._confined.tests(files, [test.path for test in python])
            tallies.append(_count(report, ran, python))
        for script in scripts:
            argv, end = _ENDS[languages.of_path(script.path) or ""]
            passed, ran = await self._confined.script(argv, script.path, files, end)
            tallies.append(
                _Tally({script.path} if passed else set(), set() if passed else {script.path}, ran)
            )
        return _judged(VerificationLevel.CALLER_TESTS, tallies, "test")

    async def _written_tests(self, solution: Solution, main: str, code: str) -> Verdict:
        """Tests that are the answer: run against the caller's files, empty ones not counted."""
        files = assemble(self._aim.files, solution)
        report, ran = await self._confined.tests(files, [main])
        tally = _count(report, ran, [SourceFile(main, code)])
        empty = caller_tests.asserting_nothing(code)
        vacuous = {name for name in tally.passed if _function(name) in empty}
        tally = _Tally(tally.passed - vacuous, tally.failed | vacuous, ran)
        return _judged(VerificationLevel.GENERATED_TESTS, [tally], "written test")

    async def _examples(self, solution: Solution, main: str) -> Verdict:
        examples = self._checks.examples
        files = assemble(self._aim.files, solution, self._checks.sent)
        report, ran = await self._confined.calls(files, main, [(e.setup, e.call) for e in examples])
        lines = [
            _line(e, a, ran) for e, a in zip(examples, _padded(report, len(examples)), strict=True)
        ]
        missed = [line for line in lines if line]
        passed = len(examples) - len(missed)
        explained = [f"{main}: {report.error}"] if report.error else missed[:_NAMES_SHOWN]
        return Verdict(
            Verification(
                level=VerificationLevel.EXAMPLES,
                passed=passed,
                failed=len(missed),
                score=passed / len(examples),
                summary=f"{passed} of {len(examples)} examples of the prompt hold",
                output="\n".join([*explained, *([ran.output] if ran.output and missed else [])]),
                isolation=ran.isolation,
                wall_s=ran.wall_s,
            ),
            behaviour=behaviour_of(report),
        )


def behaviour_of(report: CallsReport) -> str:
    """What the calls answered, as a short digest; "" if the module could not be loaded."""
    if not report.loaded or not report.results:
        return ""
    return _digest([f"{r.value}|{r.printed}|{r.error.split(':')[0]}" for r in report.results])


class _Tally(Struct, frozen=True):
    passed: set[str]
    failed: set[str]
    ran: Ran


def _count(report: TestsReport, ran: Ran, tests: Sequence[SourceFile]) -> _Tally:
    """What passed and what did not; tests that vanished or did not end count as failed."""
    outcomes: dict[str, str] = {}
    for name, outcome, _ in report.results:
        if outcomes.get(name) in (None, "passed"):
            outcomes[name] = outcome
    allowed_to_skip = any(caller_tests.may_skip(test) for test in tests)
    passed = {name for name, outcome in outcomes.items() if outcome == "passed"}
    skipped = {n for n, o in outcomes.items() if o == "skipped"} if allowed_to_skip else set[str]()
    failed = (outcomes.keys() | set(report.collected)) - passed - skipped
    for test in tests:
        seen = sum(1 for name in passed | failed | skipped if name.split("::")[0] == test.path)
        lost = caller_tests.minimum(test) - seen
        failed |= {f"{test.path}::not run {number + 1}" for number in range(max(0, lost))}
    return _Tally(passed, failed, ran)


def _judged(level: VerificationLevel, tallies: Sequence[_Tally], noun: str) -> Verdict:
    passed = set[str]().union(*(tally.passed for tally in tallies))
    failed = set[str]().union(*(tally.failed for tally in tallies))
    count = len(passed) + len(failed)
    ended = "; ".join(tally.ran.ended for tally in tallies if tally.ran.ended)
    names = ", ".join(sorted(failed)[:_NAMES_SHOWN])
    parts = [f"{len(passed)} of {count} {noun}s passed", f"failed: {names}" if names else "", ended]
    verification = Verification(
        level=level,
        passed=len(passed),
        failed=len(failed),
        score=len(passed) / count if count else None,
        summary="; ".join(part for part in parts if part),
        output="\n".join(tally.ran.output for tally in tallies)[-4000:],
        isolation=tallies[0].ran.isolation if tallies else None,
        wall_s=sum(tally.ran.wall_s for tally in tallies),
    )
    return Verdict(verification, _digest(sorted(passed)) if count else "")


def _padded(report: CallsReport, count: int) -> list[Answered | None]:
    results: list[Answered | None] = list(report.results[:count])
    return results + [None] * (count - len(results))


def _line(example: Example, answered: Answered | None, ran: Ran) -> str:
    """What an example missed, in one line; "" if it holds."""
    if answered is None:
        return f"{example.call} was not answered{': the run ' + ran.ended if ran.ended else ''}"
    if meets(example, answered):
        return ""
    got = answered.error or (answered.printed + (answered.value or "")) or "None"
    return f"{example.call} gave {_short(got)}, expected {_short(example.expected)}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "..."


def _function(test: str) -> str:
    return test.rsplit("::", 1)[-1].split("[", 1)[0]


def _nothing_there(level: VerificationLevel) -> Verification:
    scored = level not in (VerificationLevel.SYNTAX, VerificationLevel.NONE)
    return Verification(
        level=level,
        failed=1,
        score=0.0 if scored else None,
        summary="the answer holds no code",
    )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
