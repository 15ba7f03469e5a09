"""What a program's file is called where its sender names none."""

import re

_NAME = r"((?:[^\W\d]|\$)[\w$]{0,60})(?![\w$])"  # short enough to name a file
# No \s: a run of words over many lines would be read again from each of them.
_TYPE = rf"(?:(?:final|abstract|sealed)[ \t]+)*(?:class|enum|record|interface)[ \t]+{_NAME}"
_PUBLIC = re.compile(rf"(?:^|;[ \t]*)public[ \t]+{_TYPE}", re.M)
_CLASS = re.compile(rf"^{_TYPE}", re.M)
_MAIN = re.compile(r"\bvoid[ \t]+main[ \t]*\(")
_LOOKED_AT = 1024 * 1024


def main_file(language: str, usual: str, content: bytes) -> str:
    """The name of a file with this content, `usual` but for Java: there a class names its file."""
    if language != "java":
        return usual
    name = _java_class(content[:_LOOKED_AT].decode(errors="replace"))
    return f"{name}.java" if name else usual


def _java_class(source: str) -> str | None:
    """The public class, else the one around main: of those that begin a line, as most do."""
    public = _PUBLIC.search(source)
    if public is not None:
        return public[1]
    main = _MAIN.search(source)
    before = [found[1] for found in _CLASS.finditer(source, 0, main.start() if main else 0)]
    return before[-1] if before else None
