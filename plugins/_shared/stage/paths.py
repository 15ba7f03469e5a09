"""Paths of files in the workspace: which are valid, and glob patterns for them."""

import re

_MAX_PATH = 1024
_MAX_COMPONENT = 255
_SURROGATE = re.compile("[\ud800-\udfff]")


def path_problem(path: str) -> str:
    """Why this is not a valid path below the workspace; "" if it is."""
    if _SURROGATE.search(path):
        return "is not valid text"
    parts = path.split("/")
    longest = max(len(part.encode()) for part in parts)
    checks = {
        "is empty": not path,
        "must be relative to the workspace": path.startswith("/"),
        "contains a NUL character": "\0" in path,
        "must not contain '..', '.' or an empty part": not {"", ".", ".."}.isdisjoint(parts),
        f"is longer than {_MAX_PATH} bytes": len(path.encode()) > _MAX_PATH,
        f"has a part longer than {_MAX_COMPONENT} bytes": longest > _MAX_COMPONENT,
    }
    return next((reason for reason, wrong in checks.items() if wrong), "")


def glob_to_regex(pattern: str) -> str:
    """A regular expression for a glob pattern: `*` matches within a folder, `**` across folders."""
    out = ""
    position = 0
    while position < len(pattern):
        token, position = _token(pattern, position)
        out += token
    return out


def _token(pattern: str, at: int) -> tuple[str, int]:
    if pattern.startswith("**/", at):
        return "(?:.*/)?", at + 3
    if pattern.startswith("**", at):
        return ".*", at + 2
    if pattern[at] == "*":
        return "[^/]*", at + 1
    if pattern[at] == "?":
        return "[^/]", at + 1
    if pattern[at] == "[":
        return _character_set(pattern, at)
    return re.escape(pattern[at]), at + 1


def _character_set(pattern: str, at: int) -> tuple[str, int]:
    negated = pattern.startswith("[!", at)
    start = at + 2 if negated else at + 1
    end = pattern.find("]", start + 1)
    if end < 0:
        return re.escape("["), at + 1
    members = re.sub(r"([\\\[\]^&|~])", r"\\\1", pattern[start:end])
    return f"(?!/)[{'^' if negated else ''}{members}]", end + 1
