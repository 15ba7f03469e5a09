"""Entry points: the name of a program's main file if the caller gives none; Java's classes."""

import re

_NAME = r"((?:[^\W\d]|\$)[\w$]{0,60})(?![\w$])"  # short enough for a file name
# Not \s: words on many lines would be matched again from each line (quadratic time).
_TYPE = rf"(?:(?:final|abstract|sealed)[ \t]+)*(?:class|enum|record|interface)[ \t]+{_NAME}"
_PUBLIC = re.compile(rf"(?:^|;[ \t]*)public[ \t]+{_TYPE}", re.M)
_CLASS = re.compile(rf"^{_TYPE}", re.M)
_ANY_CLASS = re.compile(rf"(?:^|;[ \t]*)(?:public[ \t]+)?{_TYPE}", re.M)
_PACKAGE = re.compile(r"^[ \t]*package[ \t]+([\w.]+)[ \t]*;", re.M)
_MAIN = re.compile(r"\bvoid[ \t]+main[ \t]*\(")
_MAX_BYTES = 1024 * 1024


def main_file_name(language: str, default: str, content: bytes) -> str:
    """The name of a file with this content: `default`, but for Java the name of its class."""
    if language != "java":
        return default
    source = _decode(content)
    public = _PUBLIC.search(source)
    name = public[1] if public else _last_class_before_main(source, _CLASS)
    return f"{name}.java" if name else default


def java_public_type(content: bytes) -> str | None:
    """The name of the public class that a Java file declares; None if there is none."""
    public = _PUBLIC.search(_decode(content))
    return public[1] if public else None


def java_main_class(content: bytes, default: str) -> str:
    """The class of a Java file that has `main`, with its package; the public one, or `default`.

    Only classes that begin a line are found.
    """
    source = _decode(content)
    name = _last_class_before_main(source, _ANY_CLASS) or java_public_type(content) or default
    package = _PACKAGE.search(source)
    return f"{package[1]}.{name}" if package else name


def _decode(content: bytes) -> str:
    return content[:_MAX_BYTES].decode(errors="replace")


def _last_class_before_main(source: str, pattern: re.Pattern[str]) -> str | None:
    main = _MAIN.search(source)
    before = [match[1] for match in pattern.finditer(source, 0, main.start() if main else 0)]
    return before[-1] if before else None
