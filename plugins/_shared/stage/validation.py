"""Checks a run request before anything starts."""

import re

from appliance.domain.execution import RunRequest, SandboxFile
from appliance.errors import InvalidInput
from plugins._shared.stage import paths

_BLOCK = 4096  # tmpfs allocates whole pages
_MAX_WORDS_BYTES = 1024 * 1024
_MAX_WORD_BYTES = 128 * 1024  # MAX_ARG_STRLEN of the kernel, which counts the NUL
_MAX_PATTERNS = 64
_MAX_PATTERN = 256


def check_request(request: RunRequest) -> None:
    """Raises InvalidInput that names the first invalid field."""
    _check_argv(request.argv)
    if request.build is not None:
        _check_argv(request.build.argv)
    _check_env(request.env)
    _check_files(request.files, request.limits.workspace_bytes)
    _check_patterns(request.artifacts)
    _check_limits(request)


def _check_argv(argv: tuple[str, ...]) -> None:
    if not argv or not argv[0]:
        raise InvalidInput.at("argv", "is empty; the first word names the program")
    _check_words("argv", argv)


def _check_env(env: dict[str, str]) -> None:
    for name in env:
        if not name or "=" in name:
            raise InvalidInput.at("environment", f"{name!r} is not a variable name")
    _check_words("environment", [f"{name}={value}" for name, value in env.items()])


def _check_words(field: str, words: tuple[str, ...] | list[str]) -> None:
    sizes = [_size(field, word) for word in words]
    if max(sizes, default=0) >= _MAX_WORD_BYTES or sum(sizes) > _MAX_WORDS_BYTES:
        raise InvalidInput.at(
            field,
            f"is too long (at most {_MAX_WORD_BYTES - 1} bytes a word, {_MAX_WORDS_BYTES} in all)",
        )


def _size(field: str, word: str) -> int:
    if "\0" in word:
        raise InvalidInput.at(field, "contains a NUL character")
    try:
        return len(word.encode())
    except UnicodeEncodeError:
        raise InvalidInput.at(field, "is not valid text") from None


def _check_files(files: tuple[SandboxFile, ...], max_bytes: int) -> None:
    names: set[str] = set()
    folders: set[str] = set()
    for file in files:
        if reason := paths.path_problem(file.path):
            raise InvalidInput.at("files", f"the path {file.path[:200]!r} {reason}")
        if file.path in names:
            raise InvalidInput.at("files", f"{file.path!r} appears twice")
        names.add(file.path)
        parts = file.path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if clash := names & folders:
        raise InvalidInput.at("files", f"{min(clash)!r} is both a file and a folder")
    needed = sum(-(-len(file.content) // _BLOCK) * _BLOCK for file in files)
    if needed > max_bytes:
        raise InvalidInput.at("files", f"need {needed} bytes; the workspace has {max_bytes}")


def _check_patterns(patterns: tuple[str, ...]) -> None:
    if len(patterns) > _MAX_PATTERNS:
        raise InvalidInput.at("artifacts", f"has more than {_MAX_PATTERNS} patterns")
    for pattern in patterns:
        if not pattern or len(pattern) > _MAX_PATTERN:
            raise InvalidInput.at(
                "artifacts", f"a pattern must have 1 to {_MAX_PATTERN} characters"
            )
        try:
            re.compile(paths.glob_to_regex(pattern))
        except re.error:
            raise InvalidInput.at("artifacts", f"{pattern!r} is not a glob pattern") from None


def _check_limits(request: RunRequest) -> None:
    limits = request.limits
    for name in limits.__struct_fields__:
        minimum = 0 if name.startswith(("output", "artifact")) else 1e-3
        if not minimum <= getattr(limits, name) < 2**53:
            raise InvalidInput.at(f"limits.{name}", "is out of range")
