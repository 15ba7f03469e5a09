"""Splits a model's answer into code blocks, with language and file name, and prose.

Small models leave fences out, forget to close them and put file names in many places: in the
info string, on the line before the block, in a comment on its first line.
"""

import re

from msgspec import Struct

from appliance.agents.code import languages, python_source

_FENCE = re.compile(r"^[ \t>]*(?P<mark>`{3,}|~{3,})(?P<info>.*)$")
_REASONING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_ATTRIBUTE = re.compile(
    r"(?:file(?:name|path)?|title|path|name|src)\s*[=:]\s*[\"']?([^\"'\s}]+)", re.IGNORECASE
)
_COMMENT = re.compile(r"^\s*(?:#+|//+|--|/\*+|<!--|;+|%)\s*(.*?)\s*(?:\*/|-->)?\s*$")
_LABEL = re.compile(
    r"^(?:(?:in|file(?:name|path)?|path|create|update|save (?:this )?as)\b)?\s*:?\s*", re.I
)
_MAX_LABEL = 300
_CODE_START = re.compile(
    r"^(?:from [\w.]+ import |import [\w.]+|(?:async )?def \w+\s*\(|class \w+|@\w|#!"
    r"|(?:export |async )*function\b|(?:const|let|var) \w+ ?=)"
)
_MAX_PATH = 200
_PATH_PART = re.compile(r"[A-Za-z0-9_.@+()\[\] -]+")
_FILE_NAME = re.compile(r"[A-Za-z0-9_@+()\[\]./\\-]*[A-Za-z0-9_)\]-]\.[A-Za-z][A-Za-z0-9]{0,9}")
_NAMES_WITHOUT_EXTENSION = {
    "Dockerfile", "Makefile", "Jenkinsfile", "Procfile", "Rakefile", "Gemfile",
}  # fmt: skip


class CodeBlock(Struct, frozen=True):
    """A block of code. `path` is relative and without `..`; `closed` is False if it was cut off."""

    language: str | None
    path: str | None
    content: str
    closed: bool = True


class ParsedAnswer(Struct, frozen=True):
    """`text` is the answer without the reasoning, `explanation` the prose beside the code."""

    text: str
    explanation: str
    blocks: tuple[CodeBlock, ...]


def parse_answer(raw: str, expected: str | None = None) -> ParsedAnswer:
    """Parse an answer; `expected` is the language to look for where no block is fenced."""
    text = _REASONING.sub("", raw.replace("\r\n", "\n").replace("\0", "")).strip("\n")
    blocks, prose = _split_fenced(_insert_missing_fence(text))
    if not blocks:
        block, prose = _find_unfenced(text, expected)
        blocks = [block] if block else []
    return ParsedAnswer(
        text.strip(), _join_prose(prose), tuple(block for block in blocks if block.content)
    )


def _insert_missing_fence(text: str) -> str:
    """The text with an opening fence before code that only has a closing one."""
    lines = text.split("\n")
    fences = [i for i, line in enumerate(lines) if _FENCE.match(line)]
    if not fences or len(fences) % 2 == 0 or lines[fences[0]].strip() != "```":
        return text
    start = next((i for i in range(fences[0]) if _CODE_START.match(lines[i])), None)
    return text if start is None else "\n".join([*lines[:start], "```", *lines[start:]])


def _split_fenced(text: str) -> tuple[list[CodeBlock], list[str]]:
    """The fenced blocks, and the lines outside them."""
    blocks: list[CodeBlock] = []
    prose: list[str] = []
    body: list[str] = []
    mark = info = ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        opens = fence is not None and not mark and _may_open_block(fence)
        if not mark and fence and opens:
            mark, info, body = fence["mark"], fence["info"].strip(), []
        elif not mark:
            prose.append(line)
        elif fence and _closes_block(fence, mark):
            blocks.append(_make_block(info, body, prose, closed=True))
            mark = ""
            # A fence with a language inside a block: the model forgot to close the block.
            if fence["info"].strip():
                mark, info, body = fence["mark"], fence["info"].strip(), []
        elif line.rstrip().endswith(mark) and "`" in mark:
            body.append(line.rstrip().removesuffix(mark))
            blocks.append(_make_block(info, body, prose, closed=True))
            mark = ""
        else:
            body.append(line)
    if mark:
        blocks.append(_make_block(info, body, prose, closed=False))
    return blocks, prose


def _may_open_block(fence: re.Match[str]) -> bool:
    """False for a sentence that starts and ends with three backticks."""
    return "`" not in fence["info"]


def _closes_block(fence: re.Match[str], mark: str) -> bool:
    same_kind = fence["mark"][0] == mark[0] and len(fence["mark"]) >= len(mark)
    info = fence["info"].strip()
    # Inside a block of Markdown, fences with a language belong to its content.
    return same_kind and (not info or (len(fence["mark"]) == len(mark) and _names_language(info)))


def _names_language(info: str) -> bool:
    return languages.canonical_name(re.split(r"[\s:{]", info)[0]) is not None


def _make_block(info: str, body: list[str], prose: list[str], *, closed: bool) -> CodeBlock:
    content = _dedent(body)
    language, path = _parse_info(info)
    path = path or _path_before_block(prose) or _path_in_first_line(content)
    if language is None and path is not None:
        language = languages.detect_from_path(path)
    return CodeBlock(language, path, content, closed)


def _dedent(body: list[str]) -> str:
    """The code without the indentation of the list item or quote that it stands in."""
    lines = [line.rstrip() for line in body]
    filled = [line for line in lines if line]
    margin = min((len(line) - len(line.lstrip(" ")) for line in filled), default=0)
    # A lone function body keeps its indentation, by which it is recognized later.
    starts_at_margin = bool(filled) and _CODE_START.match(filled[0].strip()) is not None
    if margin and starts_at_margin:
        lines = [line[margin:] for line in lines]
    text = "\n".join(lines).strip("\n")
    return text + "\n" if text.strip() else ""


def _parse_info(info: str) -> tuple[str | None, str | None]:
    """Language and file name from the info string after the opening fence."""
    info = info[:_MAX_LABEL]
    attribute = _ATTRIBUTE.search(info)
    path = safe_path(attribute[1]) if attribute else None
    words = [word for word in re.split(r"[\s{}:,]+", info) if word]
    language = next(
        filter(None, (languages.canonical_name(word.lstrip(".")) for word in words)), None
    )
    if path is None:
        path = next((safe_path(word) for word in words if looks_like_file_name(word)), None)
    return language, path


def _path_before_block(prose: list[str]) -> str | None:
    """A file name alone on the last line before the block."""
    line = next((line for line in reversed(prose[-2:]) if line.strip()), "")
    bare = line[:_MAX_LABEL].strip().strip("#*_>- \t").rstrip(":").strip("*_ ")
    return _path_alone_in(re.sub(r"^\d+[.)]\s*", "", bare))


def _path_in_first_line(content: str) -> str | None:
    """A file name in a comment on the first line of the code."""
    comment = _COMMENT.match(content.split("\n", 1)[0][:_MAX_LABEL])
    return _path_alone_in(comment[1]) if comment else None


def _path_alone_in(text: str) -> str | None:
    """The file name if the text is nothing but that name and a label ("File: app.py")."""
    bare = _LABEL.sub("", text.strip(), count=1).strip("`\"'* :")
    return safe_path(bare) if looks_like_file_name(bare) else None


def _find_unfenced(text: str, expected: str | None) -> tuple[CodeBlock | None, list[str]]:
    """Code without fences, from the first line that looks like code."""
    lines = text.split("\n")
    if expected == languages.PYTHON and _is_function_body(text):
        return CodeBlock(languages.PYTHON, None, text.rstrip() + "\n"), []
    start = next((i for i, line in enumerate(lines) if _CODE_START.match(line)), None)
    if start is None:
        return None, lines
    code = "\n".join(lines[start:])
    if expected in (None, languages.PYTHON):
        valid = python_source.longest_valid_prefix(code)
        if valid:
            end = start + valid.count("\n") + 1
            block = CodeBlock(languages.PYTHON, None, valid.rstrip() + "\n")
            return block, lines[:start] + lines[end:]
    if expected is None:
        return None, lines
    return CodeBlock(expected, None, code.rstrip() + "\n"), lines[:start]


def _is_function_body(text: str) -> bool:
    """Whether the whole text is the indented body of a function."""
    first = next((line for line in text.split("\n") if line.strip()), "")
    body = first.startswith("    ") and python_source.parse_module("def f():\n" + text) is not None
    return body and python_source.parse_module(text) is None


def _join_prose(prose: list[str]) -> str:
    """The prose as paragraphs separated by one empty line."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in prose)).strip()


def safe_path(text: str) -> str | None:
    """The path with `/`, relative and without `..`; None if it can't be made so."""
    path = text.strip().replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    relative = not path.startswith(("/", "~")) and not re.match(r"[A-Za-z]:", path)
    if not relative or not parts or ".." in parts or len(path) > _MAX_PATH:
        return None
    if parts[0] == ".git" or not all(_PATH_PART.fullmatch(part) for part in parts):
        return None
    return "/".join(parts)


def looks_like_file_name(text: str) -> bool:
    """Whether a word looks like a file name: `app.py`, `src/index.html`, `Dockerfile`."""
    if len(text) > _MAX_PATH:
        return False
    last = text.replace("\\", "/").rsplit("/", 1)[-1]
    return last in _NAMES_WITHOUT_EXTENSION or bool(_FILE_NAME.fullmatch(text))
