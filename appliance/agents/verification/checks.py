"""Chooses what the answers of a task are verified against."""

from collections.abc import Collection

from msgspec import Struct

from appliance.agents.code import languages
from appliance.agents.code.solution import AnswerTarget
from appliance.agents.verification import caller_tests, examples
from appliance.agents.verification.examples import Example
from appliance.domain.tasks import SourceFile, TaskRequest, VerificationLevel

_SCRIPTS = {languages.JAVASCRIPT: "node", languages.SHELL: "sh"}
_PARSED_BY_PYTHON = {languages.PYTHON, "json", "toml"}


class Checks(Struct, frozen=True):
    """`level` is the strongest level that can be reached; `tests` and `examples` belong to it.

    `test_files` are all files that the caller sent as tests, helpers and data included.
    """

    level: VerificationLevel
    tests: tuple[SourceFile, ...] = ()
    examples: tuple[Example, ...] = ()
    test_files: tuple[SourceFile, ...] = ()

    @property
    def needs_sandbox(self) -> bool:
        return self.level is not VerificationLevel.NONE


def choose_checks(request: TaskRequest, target: AnswerTarget, available: Collection[str]) -> Checks:
    """The checks for a task that answers with code; `available` are the sandbox's languages.

    The first that applies: the caller's tests; the examples in the prompt; tests that the model
    writes (Python only, since they call the same function in each candidate); a syntax check.
    """
    tests = [
        test
        for test in caller_tests.select_runnable(request.tests)
        if _is_runnable(test.path, available)
    ]
    if target.writes_tests:
        return Checks(_written_tests_level(target, available))
    if tests:
        return Checks(VerificationLevel.CALLER_TESTS, tests=tuple(tests), test_files=request.tests)
    if target.language == languages.PYTHON:
        found = examples.find_examples(request.prompt, target.stub)
        if found:
            return Checks(VerificationLevel.EXAMPLES, examples=tuple(found))
        return Checks(VerificationLevel.GENERATED_TESTS)
    return Checks(_syntax_level(target.language, available))


def _written_tests_level(target: AnswerTarget, available: Collection[str]) -> VerificationLevel:
    """Tests that are the answer can be run if the caller sent Python code to test."""
    if target.language == languages.PYTHON and target.files:
        return VerificationLevel.GENERATED_TESTS
    return _syntax_level(target.language, available)


def _syntax_level(language: str, available: Collection[str]) -> VerificationLevel:
    checked = language in _PARSED_BY_PYTHON or _SCRIPTS.get(language, "") in available
    return VerificationLevel.SYNTAX if checked else VerificationLevel.NONE


def _is_runnable(path: str, available: Collection[str]) -> bool:
    language = languages.detect_from_path(path)
    return language == languages.PYTHON or _SCRIPTS.get(language or "", "") in available
