"""Builds the request of `monkey-coder sandbox run`: program, language, files, input."""

import base64
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from appliance.errors import InvalidInput

_MAX_FILE = 8 * 1024 * 1024
_FIRST_LINE = 256
_VERSION = re.compile(r"[\d.]+$")

Language = Mapping[str, Any]


def require_language(program: Path, languages: Sequence[Language]) -> str:
    """The language of a program: by its #! line, else by its name. Raises InvalidInput."""
    language = detect_language(program, languages, complete=True)
    if language is None:
        names = ", ".join(language["name"] for language in languages)
        raise InvalidInput(
            f"{program}: neither its #! line nor its name belongs to a language of this server "
            f"({names}); use --language"
        )
    return language


def detect_language(program: Path, languages: Sequence[Language], *, complete: bool) -> str | None:
    """As require_language, but None if unknown; `complete`: `languages` is the final list."""
    interpreter = _interpreter(program)
    language = _language_by_name(interpreter, languages)
    if language is None and (complete or not interpreter):
        language = _language_by_suffix(program, languages)
    return None if language is None else str(language["name"])


def build_body(
    program: Path, args: Sequence[str], language: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The request body. Raises InvalidInput for a file that cannot be read or sent."""
    files = [program, *options["files"]]
    timeout = options["timeout"]
    return {
        "language": language,
        "files": [_encode_file(path) for path in files],
        "args": [_check_text(word, "an argument") for word in args],
        "stdin": _base64(_read_input(options["stdin"])),
        "stdin_encoding": "base64",
        "artifacts": [_check_text(pattern, "--artifact") for pattern in options["artifacts"]],
        "limits": {} if timeout is None else {"wall_s": timeout},
    }


def _interpreter(program: Path) -> str:
    """The interpreter of `#!/bin/bash` or `#!/usr/bin/env -S python3.11 -u`; "" if none."""
    line = _read_bounded(program, _FIRST_LINE).partition(b"\n")[0].decode(errors="replace")
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    names = [PurePosixPath(word).name for word in words if not word.startswith("-")]
    if names[:1] == ["env"]:
        names = names[1:]
    return names[0] if names else ""


def _language_by_name(name: str, languages: Sequence[Language]) -> Language | None:
    names = {name, _VERSION.sub("", name)} - {""}
    return next((each for each in languages if names & {each["name"], *each["aliases"]}), None)


def _language_by_suffix(program: Path, languages: Sequence[Language]) -> Language | None:
    suffix = program.suffix.removeprefix(".").lower()
    # Two languages may share a suffix; the one named after it comes first.
    named = [each for each in languages if suffix in each["extensions"][:1]]
    taking = [each for each in languages if suffix in each["extensions"]]
    return next(iter(named + taking), None)


def _encode_file(path: Path) -> dict[str, Any]:
    """A file under its relative path, or under its base name if it lies elsewhere."""
    here, absolute = Path.cwd(), path.absolute()
    inside = absolute.is_relative_to(here) and ".." not in absolute.parts
    name = absolute.relative_to(here) if inside else Path(path.name)
    return {
        "path": _check_text(name.as_posix(), "the name of a file"),
        "content": _base64(_read_whole(path)),
        "encoding": "base64",
        "executable": os.access(path, os.X_OK),
    }


def _read_input(path: Path | None) -> bytes:
    if path is None and not _has_input():
        return b""
    if path is None:
        path = Path("-")
    return _read_whole(Path("/dev/stdin") if str(path) == "-" else path)


def _has_input() -> bool:
    """Whether stdin is open and not a terminal, where nobody may be about to type."""
    try:
        os.fstat(0)
    except OSError:
        return False
    return not os.isatty(0)


def _read_whole(path: Path) -> bytes:
    content = _read_bounded(path, _MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise InvalidInput(f"{path}: more than the {_MAX_FILE} bytes that can be sent")
    return content


def _read_bounded(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _check_text(word: str, what: str) -> str:
    """Refuse bytes that are not UTF-8: they arrive as lone surrogates, which JSON cannot hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(word).decode(errors="replace")
        raise InvalidInput(f"{what} is not UTF-8 and can't be sent: {shown}") from None
    return word


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
