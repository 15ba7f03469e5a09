"""Entry points: the name of a program's main file if the caller gives none."""

import re

_NAME = r"((?:[^\W\d]|\$)[\w$]{0,60})(?![\w$])"  # short enough for a file name
# Not \s: words on many lines would be matched again from each line (quadratic time).
_TYPE = rf"(?:(?:final|abstract|sealed)[ \t]+)*(?:class|enum|record|interface)[ \t]+{_NAME}"
_PUBLIC = re.compile(rf"(?:^|;[ \t]*)public[ \t]+{_TYPE}", re.M)
_CLASS = re.compile(rf"^{_TYPE}", re.M)
_MAIN = re.compile(r"\bvoid[ \t]+main[ \t]*\(")
_MAX_BYTES = 1024 * 1024


def main_file_name(language: str, default: str, content: bytes) -> str:
    """The name of a file with this content: `default`, but for Java the name of its class."""
    if language != "java":
        return default
    name = _java_class(content[:_MAX_BYTES].decode(errors="replace"))
    return f"{name}.java" if name else default


def _java_class(source: str) -> str | None:
    """The public class, else the class around `main`; only classes that begin a line are found."""
    public = _PUBLIC.search(source)
    if public is not None:
        return public[1]
    main = _MAIN.search(source)
    before = [match[1] for match in _CLASS.finditer(source, 0, main.start() if main else 0)]
    return before[-1] if before else None
