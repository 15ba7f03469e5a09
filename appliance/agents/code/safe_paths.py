"""File names out of a model's answer, made safe."""

import re

_LONGEST = 200
_ALLOWED = re.compile(r"[A-Za-z0-9_.@+()\[\] -]+")
_NAME = re.compile(r"[A-Za-z0-9_@+()\[\]./\\-]*[A-Za-z0-9_)\]-]\.[A-Za-z][A-Za-z0-9]{0,9}")
_BARE_NAMES = {"Dockerfile", "Makefile", "Jenkinsfile", "Procfile", "Rakefile", "Gemfile"}


def safe_path(text: str) -> str | None:
    """The path as a relative one with `/` and without `..`, or None if it can't be one."""
    path = text.strip().replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    relative = not path.startswith(("/", "~")) and not re.match(r"[A-Za-z]:", path)
    if not relative or not parts or ".." in parts or len(path) > _LONGEST:
        return None
    if parts[0] == ".git" or not all(_ALLOWED.fullmatch(part) for part in parts):
        return None
    return "/".join(parts)


def looks_like_file(text: str) -> bool:
    """Whether one word reads as a file's name: `app.py`, `src/index.html`, `Dockerfile`."""
    if len(text) > _LONGEST:
        return False
    last = text.replace("\\", "/").rsplit("/", 1)[-1]
    return last in _BARE_NAMES or bool(_NAME.fullmatch(text))
