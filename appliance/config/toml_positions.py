"""Where the keys of a TOML file stand, which tomllib does not tell."""

import re
from pathlib import Path

_KEY_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY_PATH = rf"({_KEY_PART}(?:\s*\.\s*{_KEY_PART})*)"
_HEADER = re.compile(rf"\s*\[\s*{_KEY_PATH}\s*\]")
_KEY = re.compile(rf"\s*{_KEY_PATH}\s*=")


class TomlPlaces:
    """Of the keys in `text`, the content of `file`, as far as its lines alone tell."""

    def __init__(self, file: Path, text: str) -> None:
        self._file = file
        self._lines = _line_numbers(text)

    def of(self, name: str) -> str:
        """file:line of a key or section, or of the nearest section around it."""
        name = name.replace('"', "")
        while name and name not in self._lines:
            name = name.rpartition(".")[0]
        return f"{self._file}:{self._lines[name]}" if name else str(self._file)


def _line_numbers(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            section = _dotted(header[1]) + "."
            for end in (match.start() for match in re.finditer(r"\.", section)):
                found.setdefault(section[:end], number)
        elif key := _KEY.match(line):
            found.setdefault(section + _dotted(key[1]), number)
    return found


def _dotted(path: str) -> str:
    return re.sub(r"\s*\.\s*", ".", path.strip()).replace('"', "").replace("'", "")
