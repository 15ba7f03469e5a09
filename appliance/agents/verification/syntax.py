"""Checks the syntax of a candidate's files without running them."""

from appliance.agents.code import languages
from appliance.agents.code.solution import Solution
from appliance.agents.verification.sandbox_harness import SandboxHarness
from appliance.domain.tasks import Verification, VerificationLevel

_PARSED_BY_PYTHON = {languages.PYTHON, "json", "toml"}
_SYNTAX_CHECKERS = {languages.JAVASCRIPT: ("node", "--check"), languages.SHELL: ("sh", "-n")}


async def check_syntax(harness: SandboxHarness, solution: Solution) -> Verification:
    """Check each file for which there is a checker here.

    `score` stays None: valid syntax says nothing about what the code does.
    """
    files = {file.path: file.content for file in solution.files}
    if solution.main and solution.code is not None:
        files[solution.main] = solution.code
    typed = [(path, languages.detect_from_path(path) or "") for path in files]
    problems: list[str] = []
    passed, isolation, wall_s = 0, None, 0.0
    parsed_by_python = [pair for pair in typed if pair[1] in _PARSED_BY_PYTHON]
    if parsed_by_python:
        report, summary = await harness.check_syntax(files, parsed_by_python)
        results = dict(report.results)
        invalid = [
            f"{path}: {results.get(path, 'could not be read')}"
            for path, _ in parsed_by_python
            if results.get(path) != ""
        ]
        problems += invalid
        passed += len(parsed_by_python) - len(invalid)
        isolation, wall_s = summary.isolation, wall_s + summary.wall_s
    for path, language in typed:
        if language in _SYNTAX_CHECKERS and _SYNTAX_CHECKERS[language][0] in harness.languages:
            result, summary = await harness.run_program((*_SYNTAX_CHECKERS[language], path), files)
            isolation, wall_s = summary.isolation, wall_s + summary.wall_s
            passed += result.ok
            problems += [] if result.ok else [f"{path}: {summary.output or summary.end_reason}"]
    return _verification(passed, problems, isolation, wall_s)


def _verification(
    passed: int, problems: list[str], isolation: str | None, wall_s: float
) -> Verification:
    count = passed + len(problems)
    if not count:
        return Verification(summary="no file in a language that can be checked here")
    return Verification(
        level=VerificationLevel.SYNTAX,
        passed=passed,
        failed=len(problems),
        score=None,
        summary=f"{passed} of {count} files can be read by their language; nothing was run",
        output="\n".join(problems)[-4000:],
        isolation=isolation,
        wall_s=wall_s,
    )
