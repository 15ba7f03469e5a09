"""What `monkey-coder sandbox run` sends: the program, its language, its files and its input."""

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


def language_of(program: Path, languages: Sequence[Language]) -> str:
    """The language that a file is in: by its #! line, else by its name. Raises InvalidInput."""
    found = language_among(program, languages, complete=True)
    if found is None:
        names = ", ".join(language["name"] for language in languages)
        raise InvalidInput(
            f"{program}: neither a #! line nor its name tells a language that the box can run "
            f"({names}); use --language"
        )
    return found


def language_among(program: Path, languages: Sequence[Language], *, complete: bool) -> str | None:
    """The same, None where it is none of these, or may be one that they lack if not `complete`."""
    interpreter = _interpreter(program)
    found = _called(interpreter, languages)
    if found is None and (complete or not interpreter):
        found = _by_suffix(program, languages)
    return None if found is None else str(found["name"])


def body(
    program: Path, args: Sequence[str], language: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The request. Raises InvalidInput for a file that can't be read or sent."""
    files = [program, *options["files"]]
    timeout = options["timeout"]
    return {
        "language": language,
        "files": [_file(path) for path in files],
        "args": [_text(word, "an argument") for word in args],
        "stdin": _base64(_input(options["stdin"])),
        "stdin_encoding": "base64",
        "artifacts": [_text(pattern, "--artifact") for pattern in options["wanted"]],
        "limits": {} if timeout is None else {"wall_s": timeout},
    }


def _interpreter(program: Path) -> str:
    """What `#!/bin/bash` or `#!/usr/bin/env -S python3.11 -u` names; "" where there is none."""
    line = _read(program, _FIRST_LINE).partition(b"\n")[0].decode(errors="replace")
    words = line.removeprefix("#!").split() if line.startswith("#!") else []
    names = [PurePosixPath(word).name for word in words if not word.startswith("-")]
    if names[:1] == ["env"]:
        names = names[1:]
    return names[0] if names else ""


def _called(name: str, languages: Sequence[Language]) -> Language | None:
    names = {name, _VERSION.sub("", name)} - {""}
    return next((each for each in languages if names & {each["name"], *each["aliases"]}), None)


def _by_suffix(program: Path, languages: Sequence[Language]) -> Language | None:
    suffix = program.suffix.removeprefix(".").lower()
    # Where two take the same files, the one that they are named after comes first.
    named = [each for each in languages if suffix in each["extensions"][:1]]
    taking = [each for each in languages if suffix in each["extensions"]]
    return next(iter(named + taking), None)


def _file(path: Path) -> dict[str, Any]:
    """A file under its path from here, or under its bare name if it lies elsewhere."""
    here, absolute = Path.cwd(), path.absolute()
    inside = absolute.is_relative_to(here) and ".." not in absolute.parts
    name = absolute.relative_to(here) if inside else Path(path.name)
    return {
        "path": _text(name.as_posix(), "the name of a file"),
        "content": _base64(_whole(path)),
        "encoding": "base64",
        "executable": os.access(path, os.X_OK),
    }


def _input(given: Path | None) -> bytes:
    if given is None:
        return b""
    return _whole(Path("/dev/stdin") if str(given) == "-" else given)


def _whole(path: Path) -> bytes:
    content = _read(path, _MAX_FILE + 1)
    if len(content) > _MAX_FILE:
        raise InvalidInput(f"{path}: more than the {_MAX_FILE} bytes that can be sent")
    return content


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None


def _text(word: str, what: str) -> str:
    """Bytes of the command line that are no text come as lone surrogates, which JSON can't hold."""
    try:
        word.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(word).decode(errors="replace")
        raise InvalidInput(f"{what} is not UTF-8 and can't be sent: {shown}") from None
    return word


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
