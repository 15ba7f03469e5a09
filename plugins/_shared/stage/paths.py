"""Names of files in the workspace: which are allowed, and patterns that match them."""

import re

_MAX_PATH = 1024
_MAX_COMPONENT = 255
_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


def problem(path: str) -> str:
    """Why this can't be a file below the workspace; empty if it can."""
    if _HALF_OF_A_PAIR.search(path):
        return "is not valid text"
    parts = path.split("/")
    longest = max(len(part.encode()) for part in parts)
    checks = {
        "is empty": not path,
        "must be relative to the workspace": path.startswith("/"),
        "holds a NUL character": "\0" in path,
        "must not hold '..', '.' or an empty part": not {"", ".", ".."}.isdisjoint(parts),
        f"is longer than {_MAX_PATH} bytes": len(path.encode()) > _MAX_PATH,
        f"has a part longer than {_MAX_COMPONENT} bytes": longest > _MAX_COMPONENT,
    }
    return next((reason for reason, wrong in checks.items() if wrong), "")


def regex(pattern: str) -> str:
    """A glob pattern as a regular expression: `*` stays in its folder, `**` does not."""
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
