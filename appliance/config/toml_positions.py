"""Line numbers of the keys of a TOML file, which tomllib does not report."""

import re
from pathlib import Path

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY_PATH = rf"({_KEY_PART}(?:\s*\.\s*{_KEY_PART})*)"
_HEADER = re.compile(rf"\s*\[\s*{_KEY_PATH}\s*\]")
_KEY = re.compile(rf"\s*{_KEY_PATH}\s*=")


class TomlPositions:
    """Positions of the keys in `text`, the content of `file`; found line by line."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = _line_numbers(text)

    def location_of(self, name: str) -> str:
        """`file:line` of a key or section, or of the nearest enclosing section."""
        name = name.replace('"', "")
        while name and name not in self._lines:
            name = name.rpartition(".")[0]
        return f"{self._file}:{self._lines[name]}" if name else str(self._file)


def _line_numbers(text: str) -> dict[str, int]:
    numbers: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = _dotted(header[1]) + "."
            for end in (match.start() for match in re.finditer(r"\.", section)):
                numbers.setdefault(section[:end], number)
        elif key := _KEY.match(line):
            numbers.setdefault(section + _dotted(key[1]), number)
    return numbers


def _dotted(path: str) -> str:
    return re.sub(r"\s*\.\s*", ".", path.strip()).replace('"', "").replace("'", "")
