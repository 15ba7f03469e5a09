"""Whether a candidate's files can be read by their language, without running them."""

from appliance.agents.code import languages
from appliance.agents.code.solution import Solution
from appliance.agents.verification.sandbox_harness import Confined
from appliance.domain.tasks import Verification, VerificationLevel

_READ_BY_PYTHON = {languages.PYTHON, "json", "toml"}
_PROGRAMS = {languages.JAVASCRIPT: ("node", "--check"), languages.SHELL: ("sh", "-n")}


async def check(confined: Confined, solution: Solution) -> Verification:
    """One check per file that has a checker here.

    `score` stays None: code that can be read may still do anything.
    """
    files = {file.path: file.content for file in solution.files}
    if solution.main and solution.code is not None:
        files[solution.main] = solution.code
    named = [(path, languages.of_path(path) or "") for path in files]
    problems: list[str] = []
    passed, isolation, wall_s = 0, None, 0.0
    by_python = [pair for pair in named if pair[1] in _READ_BY_PYTHON]
    if by_python:
        report, ran = await confined.syntax(files, by_python)
        found = dict(report.results)
        bad = [
            f"{path}: {found.get(path, 'could not be read')}"
            for path, _ in by_python
            if found.get(path) != ""
        ]
        problems += bad
        passed += len(by_python) - len(bad)
        isolation, wall_s = ran.isolation, wall_s + ran.wall_s
    for path, language in named:
        if language in _PROGRAMS:
            result, ran = await confined.program((*_PROGRAMS[language], path), files)
            isolation, wall_s = ran.isolation, wall_s + ran.wall_s
            passed += result.ok
            problems += [] if result.ok else [f"{path}: {ran.output or ran.ended}"]
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
