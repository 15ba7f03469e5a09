"""File names of split models: NAME-00001-of-00003.gguf, the form that llama.cpp requires.

llama.cpp is given the first file and derives the names of the others from it.
"""

import re
from pathlib import Path

from msgspec import Struct

MAX_PARTS = 128
"""Fewer than the files that the engine process may have open."""
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)


class PartName(Struct, frozen=True):
    """The name of one file of a split model; `number` counts from 1."""

    stem: str
    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.stem}-{self.number:05d}-of-{self.count:05d}.gguf"

    def parts(self) -> list[str]:
        """The names of all files of the model, in order."""
        return [str(PartName(self.stem, n, self.count)) for n in range(1, self.count + 1)]


def parse_part_name(name: str) -> PartName | None:
    """None unless `name` is that of a file of a split model, with 2 to MAX_PARTS parts."""
    match = _PART.fullmatch(name)
    if match is None:
        return None
    part = PartName(match[1], int(match[2]), int(match[3]))
    return part if 1 <= part.number <= part.count and 1 < part.count <= MAX_PARTS else None


def model_files(path: Path) -> list[Path]:
    """All files of a model: `path` alone, or every part if `path` is the first of several."""
    part = parse_part_name(path.name)
    if part is None or part.number != 1:
        return [path]
    return [path.with_name(name) for name in part.parts()]
