"""Verifies one candidate against the checks of its task, in the sandbox."""

import hashlib
from collections.abc import Sequence

from msgspec import Struct

from appliance.agents.code import languages
from appliance.agents.code.solution import AnswerTarget, Solution
from appliance.agents.verification import caller_tests, syntax
from appliance.agents.verification.checks import Checks
from appliance.agents.verification.examples import Example
from appliance.agents.verification.sandbox_harness import (
    CallOutcome,
    CallsReport,
    RunSummary,
    SandboxHarness,
    TestsReport,
)
from appliance.agents.verification.value_comparison import matches
from appliance.agents.verification.workspace import assemble_files
from appliance.domain.tasks import SourceFile, Verification, VerificationLevel

_MAX_FAILURES_SHOWN = 5
_MAX_VALUE_SHOWN = 300
# Per language: the interpreter, and a last line for the test script that proves it was reached.
_SCRIPT_RUNNERS = {
    languages.JAVASCRIPT: (
        ("node",),
        'import("fs").then((fs) => fs.writeFileSync("{mark}", "{nonce}"));',
    ),
    languages.SHELL: (("sh",), "status=$?; printf %s {nonce} > {mark}; exit $status"),
}


class Verdict(Struct, frozen=True):
    """`behavior` is a digest, equal for candidates that behaved equally; "" if unknown."""

    verification: Verification
    behavior: str = ""


class Verifier:
    """Verifies the candidates of one task. Every method raises SandboxUnavailable."""

    def __init__(self, harness: SandboxHarness, checks: Checks, target: AnswerTarget) -> None:
        self._harness = harness
        self._checks = checks
        self._target = target

    async def verify(self, solution: Solution) -> Verdict:
        """The verdict on one candidate by itself.

        At the level of generated tests this checks the syntax only; `candidates.consensus`
        then compares the candidates with one another.
        """
        level = self._checks.level
        if level is VerificationLevel.NONE:
            return Verdict(Verification(summary="nothing to verify the answer against"))
        if solution.code is None or solution.main is None:
            return Verdict(_no_code(level))
        if level is VerificationLevel.CALLER_TESTS:
            return await self._run_caller_tests(solution)
        if level is VerificationLevel.EXAMPLES:
            return await self._run_examples(solution, solution.main)
        if self._target.writes_tests and level is VerificationLevel.GENERATED_TESTS:
            return await self._run_written_tests(solution, solution.main, solution.code)
        return Verdict(await syntax.check_syntax(self._harness, solution))

    async def _run_caller_tests(self, solution: Solution) -> Verdict:
        prepared = [
            caller_tests.prepare_test(test, solution.main) for test in self._checks.test_files
        ]
        files = assemble_files(self._target.files, solution, prepared)
        python = [
            t for t in self._checks.tests if languages.detect_from_path(t.path) == languages.PYTHON
        ]
        scripts = [t for t in self._checks.tests if t not in python]
        tallies: list[_Tally] = []
        if python:
            report, summary = await self._harness.run_tests(files, [test.path for test in python])
            tallies.append(_count_tests(report, summary, python))
        for script in scripts:
            argv, end = _SCRIPT_RUNNERS[languages.detect_from_path(script.path) or ""]
            passed, summary = await self._harness.run_script(argv, script.path, files, end)
            tallies.append(
                _Tally(
                    {script.path} if passed else set(), set() if passed else {script.path}, summary
                )
            )
        return _combine_tallies(VerificationLevel.CALLER_TESTS, tallies, "test")

    async def _run_written_tests(self, solution: Solution, main: str, code: str) -> Verdict:
        """Tests that are the answer, run on the caller's files; tests without assertions fail."""
        files = assemble_files(self._target.files, solution)
        report, summary = await self._harness.run_tests(files, [main])
        tally = _count_tests(report, summary, [SourceFile(main, code)])
        empty = caller_tests.find_vacuous_tests(code)
        vacuous = {name for name in tally.passed if _function_name(name) in empty}
        tally = _Tally(tally.passed - vacuous, tally.failed | vacuous, summary)
        return _combine_tallies(VerificationLevel.GENERATED_TESTS, [tally], "written test")

    async def _run_examples(self, solution: Solution, main: str) -> Verdict:
        examples = self._checks.examples
        files = assemble_files(self._target.files, solution, self._checks.test_files)
        report, summary = await self._harness.run_calls(
            files, main, [(e.setup, e.call) for e in examples]
        )
        failures = [
            _describe_failure(e, a, summary)
            for e, a in zip(examples, _pad_results(report, len(examples)), strict=True)
        ]
        failures = [failure for failure in failures if failure]
        passed = len(examples) - len(failures)
        explained = [f"{main}: {report.error}"] if report.error else failures[:_MAX_FAILURES_SHOWN]
        return Verdict(
            Verification(
                level=VerificationLevel.EXAMPLES,
                passed=passed,
                failed=len(failures),
                score=passed / len(examples),
                summary=f"{passed} of {len(examples)} examples of the prompt hold",
                output="\n".join(
                    [*explained, *([summary.output] if summary.output and failures else [])]
                ),
                isolation=summary.isolation,
                wall_s=summary.wall_s,
            ),
            behavior=behavior_digest(report),
        )


def behavior_digest(report: CallsReport) -> str:
    """A digest of the outcomes of the calls; "" if the module could not be loaded."""
    if not report.loaded or not report.results:
        return ""
    return _digest([f"{r.value}|{r.printed}|{r.error.split(':')[0]}" for r in report.results])


class _Tally(Struct, frozen=True):
    passed: set[str]
    failed: set[str]
    summary: RunSummary


def _count_tests(report: TestsReport, summary: RunSummary, tests: Sequence[SourceFile]) -> _Tally:
    """Which tests passed and failed; tests that are missing or did not end count as failed."""
    outcomes: dict[str, str] = {}
    for name, outcome, _ in report.results:
        if outcomes.get(name) in (None, "passed"):
            outcomes[name] = outcome
    allowed_to_skip = any(caller_tests.may_skip(test) for test in tests)
    passed = {name for name, outcome in outcomes.items() if outcome == "passed"}
    skipped = {n for n, o in outcomes.items() if o == "skipped"} if allowed_to_skip else set[str]()
    failed = (outcomes.keys() | set(report.collected)) - passed - skipped
    for test in tests:
        reported = sum(1 for name in passed | failed | skipped if name.split("::")[0] == test.path)
        missing = caller_tests.count_tests(test) - reported
        failed |= {f"{test.path}::not run {number + 1}" for number in range(max(0, missing))}
    return _Tally(passed, failed, summary)


def _combine_tallies(level: VerificationLevel, tallies: Sequence[_Tally], noun: str) -> Verdict:
    passed = set[str]().union(*(tally.passed for tally in tallies))
    failed = set[str]().union(*(tally.failed for tally in tallies))
    count = len(passed) + len(failed)
    end_reasons = "; ".join(
        tally.summary.end_reason for tally in tallies if tally.summary.end_reason
    )
    names = ", ".join(sorted(failed)[:_MAX_FAILURES_SHOWN])
    parts = [
        f"{len(passed)} of {count} {noun}s passed",
        f"failed: {names}" if names else "",
        end_reasons,
    ]
    verification = Verification(
        level=level,
        passed=len(passed),
        failed=len(failed),
        score=len(passed) / count if count else None,
        summary="; ".join(part for part in parts if part),
        output="\n".join(tally.summary.output for tally in tallies)[-4000:],
        isolation=tallies[0].summary.isolation if tallies else None,
        wall_s=sum(tally.summary.wall_s for tally in tallies),
    )
    return Verdict(verification, _digest(sorted(passed)) if count else "")


def _pad_results(report: CallsReport, count: int) -> list[CallOutcome | None]:
    results: list[CallOutcome | None] = list(report.results[:count])
    return results + [None] * (count - len(results))


def _describe_failure(example: Example, outcome: CallOutcome | None, summary: RunSummary) -> str:
    """How an example failed, in one line; "" if it holds."""
    if outcome is None:
        reason = f": the run {summary.end_reason}" if summary.end_reason else ""
        return f"{example.call} was not answered{reason}"
    if matches(example, outcome):
        return ""
    got = outcome.error or (outcome.printed + (outcome.value or "")) or "None"
    return f"{example.call} gave {_shorten(got)}, expected {_shorten(example.expected)}"


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_VALUE_SHOWN else line[:_MAX_VALUE_SHOWN] + "..."


def _function_name(test: str) -> str:
    return test.rsplit("::", 1)[-1].split("[", 1)[0]


def _no_code(level: VerificationLevel) -> Verification:
    scored = level not in (VerificationLevel.SYNTAX, VerificationLevel.NONE)
    return Verification(
        level=level,
        failed=1,
        score=0.0 if scored else None,
        summary="the answer holds no code",
    )


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
