"""A model's answer, taken apart: code blocks with their names, and the text around them."""

import re

from msgspec import Struct

from appliance.agents.code import languages, python_source
from appliance.agents.code.safe_paths import looks_like_file, safe_path

_FENCE = re.compile(r"^[ \t>]*(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
_THOUGHTS = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"(?:file(?:name|path)?|title|path|name|src)\s*[=:]\s*[\"']?([^\"'\s}]+)", re.IGNORECASE
)
_COMMENT = re.compile(r"^\s*(?:#+|//+|--|/\*+|<!--|;+|%)\s*(.*?)\s*(?:\*/|-->)?\s*$")
_LABEL = re.compile(
    r"^(?:(?:in|file(?:name|path)?|path|create|update|save (?:this )?as)\b)?\s*:?\s*", re.I
)
_LABEL_LENGTH = 300
_CODE_START = re.compile(
    r"^(?:from [\w.]+ import |import [\w.]+|(?:async )?def \w+\s*\(|class \w+|@\w|#!"
    r"|(?:export |async )*function\b|(?:const|let|var) \w+ ?=)"
)


class Block(Struct, frozen=True):
    """One piece of code. `path` is safe and relative; `closed` is False if it was cut off."""

    language: str | None
    path: str | None
    content: str
    closed: bool = True


class Answer(Struct, frozen=True):
    """`text` is everything without the model's thoughts, `explanation` what is no code."""

    text: str
    explanation: str
    blocks: tuple[Block, ...]


def parse(raw: str, expected: str | None = None) -> Answer:
    """Take an answer apart; `expected` is the language to look for where nothing is fenced."""
    text = _THOUGHTS.sub("", raw.replace("\r\n", "\n").replace("\0", "")).strip("\n")
    blocks, prose = _fenced(_opened(text))
    if not blocks:
        block, prose = _unfenced(text, expected)
        blocks = [block] if block else []
    return Answer(text.strip(), _tidy(prose), tuple(block for block in blocks if block.content))


def _opened(text: str) -> str:
    """The text with a fence before code that has only its closing one."""
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if _FENCE.match(line)]
    if not fences or len(fences) % 2 == 0 or lines[fences[0]].strip() != "```":
        return text
    start = next((i for i in range(fences[0]) if _CODE_START.match(lines[i])), None)
    return text if start is None else "\n".join([*lines[:start], "```", *lines[start:]])


def _fenced(text: str) -> tuple[list[Block], list[str]]:
    """All fenced blocks, and the lines outside them."""
    blocks: list[Block] = []
    prose: list[str] = []
    body: list[str] = []
    mark = info = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        opens = fence is not None and not mark and _may_open(fence)
        if not mark and fence and opens:
            mark, info, body = fence["mark"], fence["info"].strip(), []
        elif not mark:
            prose.append(line)
        elif fence and _closes(fence, mark):
            blocks.append(_block(info, body, prose, closed=True))
            mark = ""
            # A fence with a language inside a block: the model forgot to close.
            if fence["info"].strip():
                mark, info, body = fence["mark"], fence["info"].strip(), []
        elif line.rstrip().endswith(mark) and "`" in mark:
            body.append(line.rstrip().removesuffix(mark))
            blocks.append(_block(info, body, prose, closed=True))
            mark = ""
        else:
            body.append(line)
    if mark:
        blocks.append(_block(info, body, prose, closed=False))
    return blocks, prose


def _may_open(fence: re.Match[str]) -> bool:
    """Not a sentence that merely starts with three backticks and ends with them."""
    return "`" not in fence["info"]


def _closes(fence: re.Match[str], mark: str) -> bool:
    same_kind = fence["mark"][0] == mark[0] and len(fence["mark"]) >= len(mark)
    info = fence["info"].strip()
    # Inside a block of Markdown, fences with a language belong to its content.
    return same_kind and (not info or (len(fence["mark"]) == len(mark) and _is_info(info)))


def _is_info(info: str) -> bool:
    return languages.canonical(re.split(r"[\s:{]", info)[0]) is not None


def _block(info: str, body: list[str], prose: list[str], *, closed: bool) -> Block:
    content = _dedented(body)
    language, path = _of_info(info)
    path = path or _of_preceding(prose) or _of_first_line(content)
    if language is None and path is not None:
        language = languages.of_path(path)
    return Block(language, path, content, closed)


def _dedented(body: list[str]) -> str:
    """The code without the indentation that a list item or quote gave its first line."""
    lines = [line.rstrip() for line in body]
    filled = [line for line in lines if line]
    margin = min((len(line) - len(line.lstrip(" ")) for line in filled), default=0)
    # A lone function body keeps its indentation: it says that it is one.
    starts_at_margin = bool(filled) and _CODE_START.match(filled[0].strip()) is not None
    if margin and starts_at_margin:
        lines = [line[margin:] for line in lines]
    text = "\n".join(lines).strip("\n")
    return text + "\n" if text.strip() else ""


def _of_info(info: str) -> tuple[str | None, str | None]:
    """Language and file name out of what follows the opening fence."""
    info = info[:_LABEL_LENGTH]
    named = _ATTRIBUTE.search(info)
    path = safe_path(named[1]) if named else None
    words = [word for word in re.split(r"[\s{}:,]+", info) if word]
    language = next(filter(None, (languages.canonical(word.lstrip(".")) for word in words)), None)
    if path is None:
        path = next((safe_path(word) for word in words if looks_like_file(word)), None)
    return language, path


def _of_preceding(prose: list[str]) -> str | None:
    """A file name that stands alone on the last line before the block."""
    line = next((line for line in reversed(prose[-2:]) if line.strip()), "")
    bare = line[:_LABEL_LENGTH].strip().strip("#*_>- \t").rstrip(":").strip("*_ ")
    return _lone_path(re.sub(r"^\d+[.)]\s*", "", bare))


def _of_first_line(content: str) -> str | None:
    """A file name in a comment on the first line of the code."""
    comment = _COMMENT.match(content.split("\n", 1)[0][:_LABEL_LENGTH])
    return _lone_path(comment[1]) if comment else None


def _lone_path(text: str) -> str | None:
    """The file name, where the text is that name and at most a label ("File: app.py")."""
    bare = _LABEL.sub("", text.strip(), count=1).strip("`\"'* :")
    return safe_path(bare) if looks_like_file(bare) else None


def _unfenced(text: str, expected: str | None) -> tuple[Block | None, list[str]]:
    """Code that stands in the answer without a fence, from its first line that reads as code."""
    lines = text.split("\n")
    if expected == languages.PYTHON and _is_body(text):
        return Block(languages.PYTHON, None, text.rstrip() + "\n"), []
    start = next((i for i, line in enumerate(lines) if _CODE_START.match(line)), None)
    if start is None:
        return None, lines
    code = "\n".join(lines[start:])
    if expected in (None, languages.PYTHON):
        kept = python_source.longest_valid_start(code)
        if kept:
            end = start + kept.count("\n") + 1
            block = Block(languages.PYTHON, None, kept.rstrip() + "\n")
            return block, lines[:start] + lines[end:]
    if expected is None:
        return None, lines
    return Block(expected, None, code.rstrip() + "\n"), lines[:start]


def _is_body(text: str) -> bool:
    """Whether the whole text is the indented body of a function."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    body = first.startswith("    ") and python_source.parse("def f():\n" + text) is not None
    return body and python_source.parse(text) is None


def _tidy(prose: list[str]) -> str:
    """The prose as paragraphs, with no more than one empty line between."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in prose)).strip()
