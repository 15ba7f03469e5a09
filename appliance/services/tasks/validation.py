"""Validation of task requests, before anything is stored."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

import msgspec
from msgspec import structs

from appliance.config.settings import LimitSettings
from appliance.domain.paths import PathSet
from appliance.domain.tasks import TaskRequest
from appliance.errors import InvalidInput, PayloadTooLarge

# "." and ".." would be steps of a path.
TASK_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._:-]{1,128}")
_MAX_NAME = 200
_MAX_LABELS = 64
_MAX_SEED = 2**32 - 1
_MAX_TEMPERATURE = 2.0


def validate_request(request: TaskRequest, limits: LimitSettings, max_branches: int) -> TaskRequest:
    """The request with normalized file paths.

    Raises InvalidInput, which names the field, or PayloadTooLarge, whose `details`
    are {field, size, limit}.
    """
    _check_id(request.client_task_id)
    _check_texts(request, limits)
    _check_numbers(request, max_branches)
    for field in ("provider", "model"):
        _check_name(field, getattr(request, field))
    _check_labels(request.labels)
    return _normalize_paths(request, limits)


def _check_id(client_task_id: str | None) -> None:
    if client_task_id is not None and not TASK_ID.fullmatch(client_task_id):
        raise InvalidInput.at(
            "task_id",
            "must be 1 to 128 characters A-Z, a-z, 0-9, '.', '_', ':' or '-', not '.' or '..'",
        )


def _check_texts(request: TaskRequest, limits: LimitSettings) -> None:
    if not request.prompt.strip():
        raise InvalidInput.at("prompt", "must not be empty")
    for field in ("prompt", "instructions"):
        _check_size(field, _text_bytes(field, getattr(request, field)), limits.prompt_bytes)
    _check_size("context", _context_bytes(request), limits.prompt_bytes)


def _context_bytes(request: TaskRequest) -> int:
    try:
        return len(msgspec.json.encode(request.context))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput.at("context", "must be JSON with valid Unicode text") from error


def _check_numbers(request: TaskRequest, max_branches: int) -> None:
    _check_range("branches", request.branches, 1, max_branches)
    _check_range("temperature", request.temperature, 0, _MAX_TEMPERATURE)
    _check_range("seed", request.seed, 0, _MAX_SEED)
    _check_range("max_tokens", request.max_tokens, 1, 2**31 - 1)
    if request.timeout_s is not None and not 0 < request.timeout_s < math.inf:
        raise InvalidInput.at("timeout_s", "must be a positive number of seconds")


def _check_range(field: str, value: float | None, minimum: float, maximum: float) -> None:
    # Written so that NaN fails, too.
    if value is not None and not minimum <= value <= maximum:
        raise InvalidInput.at(field, f"must be {minimum:.10g} to {maximum:.10g}")


def _check_name(field: str, name: str | None) -> None:
    if name is not None and not (0 < len(name) <= _MAX_NAME and name.isprintable()):
        raise InvalidInput.at(field, f"must be 1 to {_MAX_NAME} printable characters")


def _check_labels(labels: Sequence[str]) -> None:
    """Raises InvalidInput for a label that a data policy rule in the settings could not name."""
    if len(labels) > _MAX_LABELS:
        raise InvalidInput.at("labels", f"has {len(labels)} labels; the limit is {_MAX_LABELS}")
    for label in labels:
        if not 0 < len(label) <= _MAX_NAME or not label.isprintable() or "," in label:
            raise InvalidInput.at(
                "labels",
                f"{label[:40]!r} is invalid: a label has 1 to {_MAX_NAME} printable characters "
                "and no comma",
            )


def _normalize_paths(request: TaskRequest, limits: LimitSettings) -> TaskRequest:
    if len(request.files) + len(request.tests) > limits.files:
        _raise_too_large("files", len(request.files) + len(request.tests), limits.files, "files")
    _check_size("files", sum(_content_bytes(request)), limits.file_bytes)
    paths = PathSet()
    files = [
        structs.replace(file, path=paths.add(f"files[{at}].path", file.path))
        for at, file in enumerate(request.files)
    ]
    tests = [
        structs.replace(file, path=paths.add(f"tests[{at}].path", file.path))
        for at, file in enumerate(request.tests)
    ]
    return structs.replace(request, files=tuple(files), tests=tuple(tests))


def _content_bytes(request: TaskRequest) -> Iterator[int]:
    for group, files in (("files", request.files), ("tests", request.tests)):
        for at, file in enumerate(files):
            yield _text_bytes(f"{group}[{at}].content", file.content)


def _text_bytes(field: str, text: str) -> int:
    if "\0" in text:
        raise InvalidInput.at(field, "contains a NUL character; send text only")
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidInput.at(field, f"is not valid Unicode at character {error.start}") from error


def _check_size(field: str, size: int, limit: int) -> None:
    if size > limit:
        _raise_too_large(field, size, limit, "bytes")


def _raise_too_large(field: str, size: int, limit: int, unit: str) -> NoReturn:
    raise PayloadTooLarge(
        f"{field}: {size} {unit} exceed the limit of {limit}",
        details={"field": field, "size": size, "limit": limit},
    )
