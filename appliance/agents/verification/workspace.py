"""The files of one run: the caller's, the candidate's over them, and the tests over all."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from appliance.agents.code.solution import Solution
from appliance.domain.tasks import SourceFile

# Files that steer the test run: an answer must not change how it is judged.
_STEERING = {
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


def assemble(
    given: Iterable[SourceFile], solution: Solution, tests: Iterable[SourceFile] = ()
) -> dict[str, str]:
    """Content by path. The caller's tests win over what the candidate wrote there."""
    files = {file.path: file.content for file in given}
    files.update(
        (file.path, file.content)
        for file in solution.files
        if PurePosixPath(file.path).name not in _STEERING
    )
    if solution.main is not None and solution.code is not None:
        files[solution.main] = solution.code
    files.update((file.path, file.content) for file in tests)
    return files
