"""The files of a verification run: the caller's, then the candidate's, then the tests."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from appliance.agents.code.solution import Solution
from appliance.domain.tasks import SourceFile

# Files that configure the test run: a candidate must not change how it is verified.
_TEST_CONFIG_FILES = {
    "conftest.py",
    "pytest.ini",
    ".pytest.ini",
    "pytest.toml",
    ".pytest.toml",
    "tox.ini",
    "setup.cfg",
    "pyproject.toml",
    "sitecustomize.py",
    "usercustomize.py",
    "pytest.py",
}


def assemble_files(
    caller_files: Iterable[SourceFile], solution: Solution, tests: Iterable[SourceFile] = ()
) -> dict[str, str]:
    """Content by path; later files replace earlier ones of the same path."""
    files = {file.path: file.content for file in caller_files}
    files.update(
        (file.path, file.content)
        for file in solution.files
        if PurePosixPath(file.path).name not in _TEST_CONFIG_FILES
    )
    if solution.main is not None and solution.code is not None:
        files[solution.main] = solution.code
    files.update((file.path, file.content) for file in tests)
    return files
