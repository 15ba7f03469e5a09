"""Keeps the text format of a caller's file: line ends, byte order mark, blank ends.

Models end lines with LF, and the parser of their answers removes white space at the end of lines.
"""

import re
from collections import Counter
from itertools import takewhile

_BYTE_ORDER_MARK = "\ufeff"
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_LINE_END = "\r\n"


def normalize(text: str) -> str:
    """The text without byte order mark, with LF as line end."""
    return text.removeprefix(_BYTE_ORDER_MARK).replace("\r\n", "\n").replace("\r", "\n")


def restore_format(original: str, content: str) -> str:
    """A new content for a file, in the format that the file had.

    A line that the original has too keeps its line end and the white space before it; a new line
    gets the line end that the original has most often. If nothing but the format differs, this
    is the original itself.
    """
    mark = _BYTE_ORDER_MARK if original.startswith(_BYTE_ORDER_MARK) else ""
    before, old, after = _split_blank_ends(_LINE.findall(original.removeprefix(mark)))
    _, new, _ = _split_blank_ends(_LINE.findall(normalize(content)))
    if [line.rstrip() for line in old] == [line.rstrip() for line in new]:
        return original
    if not (old and new):
        return mark + content
    line_ends = Counter[str](end for line in old if (end := _line_end(line)))
    usual_end = line_ends.most_common(1)[0][0] if line_ends else "\n"
    known = {line.rstrip(): line for line in reversed(old)}
    lines = [known.get(line.rstrip(), line.rstrip(_LINE_END) + usual_end) for line in new]
    *lines, last = [line if _line_end(line) else line + usual_end for line in lines]
    if not (after or _line_end(old[-1])):
        last = last.rstrip(_LINE_END)
    return mark + "".join([*before, *lines, last, *after])


def _split_blank_ends(lines: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Blank lines at the start, the lines between, blank lines at the end."""
    start = sum(1 for _ in takewhile(str.isspace, lines))
    end = len(lines) - sum(1 for _ in takewhile(str.isspace, reversed(lines[start:])))
    return lines[:start], lines[start:end], lines[end:]


def _line_end(line: str) -> str:
    return line[len(line.rstrip(_LINE_END)) :]
