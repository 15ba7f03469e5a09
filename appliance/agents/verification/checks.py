"""What the answers of a task are held against, from the caller's tests down to nothing."""

from collections.abc import Collection

from msgspec import Struct

from appliance.agents.code import languages
from appliance.agents.code.solution import Aim
from appliance.agents.verification import caller_tests, examples
from appliance.agents.verification.examples import Example
from appliance.domain.tasks import SourceFile, TaskRequest, VerificationLevel

_SCRIPTS = {languages.JAVASCRIPT: "node", languages.SHELL: "sh"}
_READ_BY_PYTHON = {languages.PYTHON, "json", "toml"}


class Checks(Struct, frozen=True):
    """`level` is the strongest that can be reached here; `tests` and `examples` what it needs.

    `sent` are all files that came as tests, helpers and data beside them included.
    """

    level: VerificationLevel
    tests: tuple[SourceFile, ...] = ()
    examples: tuple[Example, ...] = ()
    sent: tuple[SourceFile, ...] = ()

    @property
    def needs_sandbox(self) -> bool:
        return self.level is not VerificationLevel.NONE


def choose(request: TaskRequest, aim: Aim, runs: Collection[str]) -> Checks:
    """The checks for a task that answers with code; `runs` are the sandbox's languages.

    The caller's tests come first, else the examples in the prompt, else tests that the model
    writes (which need Python, to call the same function in each candidate), else the
    compiler's or interpreter's own check of the syntax.
    """
    tests = [test for test in caller_tests.runnable(request.tests) if _can_run(test.path, runs)]
    if aim.writes_tests:
        return Checks(_level_of_written_tests(aim, runs))
    if tests:
        return Checks(VerificationLevel.CALLER_TESTS, tests=tuple(tests), sent=request.tests)
    if aim.language == languages.PYTHON:
        given = examples.find(request.prompt, aim.stub)
        if given:
            return Checks(VerificationLevel.EXAMPLES, examples=tuple(given))
        return Checks(VerificationLevel.GENERATED_TESTS)
    return Checks(_syntax_or_none(aim.language, runs))


def _level_of_written_tests(aim: Aim, runs: Collection[str]) -> VerificationLevel:
    """Tests that the answer consists of can be run where there is something to test."""
    if aim.language == languages.PYTHON and aim.files:
        return VerificationLevel.GENERATED_TESTS
    return _syntax_or_none(aim.language, runs)


def _syntax_or_none(language: str, runs: Collection[str]) -> VerificationLevel:
    checked = language in _READ_BY_PYTHON or _SCRIPTS.get(language, "") in runs
    return VerificationLevel.SYNTAX if checked else VerificationLevel.NONE


def _can_run(path: str, runs: Collection[str]) -> bool:
    language = languages.of_path(path)
    return language == languages.PYTHON or _SCRIPTS.get(language or "", "") in runs
