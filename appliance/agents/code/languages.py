"""Programming languages: names, file extensions, and detection of a request's language."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from appliance.agents.code import python_source
from appliance.domain.tasks import SourceFile, TaskRequest

PYTHON = "python"
JAVASCRIPT = "javascript"
SHELL = "shell"

_EXTENSIONS = {
    PYTHON: ("py", "pyi"),
    JAVASCRIPT: ("js", "mjs", "cjs"),
    "jsx": ("jsx",),
    "typescript": ("ts",),
    "tsx": ("tsx",),
    SHELL: ("sh", "bash"),
    "json": ("json",),
    "toml": ("toml",),
    "yaml": ("yaml", "yml"),
    "html": ("html", "htm"),
    "css": ("css",),
    "markdown": ("md",),
    "sql": ("sql",),
    "go": ("go",),
    "rust": ("rs",),
    "java": ("java",),
    "kotlin": ("kt",),
    "c": ("c", "h"),
    "cpp": ("cpp", "cc", "hpp"),
    "csharp": ("cs",),
    "ruby": ("rb",),
    "php": ("php",),
    "swift": ("swift",),
}
_LANGUAGE_BY_EXTENSION = {
    extension: name for name, all_ in _EXTENSIONS.items() for extension in all_
}
_ALIASES = _LANGUAGE_BY_EXTENSION | {
    "python3": PYTHON,
    "py3": PYTHON,
    "node": JAVASCRIPT,
    "nodejs": JAVASCRIPT,
    "ecmascript": JAVASCRIPT,
    "zsh": SHELL,
    "console": SHELL,
    "react": "jsx",
    "c++": "cpp",
    "c#": "csharp",
    "golang": "go",
}
# Words in a prompt that suggest a language, the most certain first.
_WORDS = (
    (r"python|django|flask|fastapi|pytest|pandas|numpy", PYTHON),
    (r"typescript|angular|nestjs", "typescript"),
    (r"react|jsx|next\.?js", "jsx"),
    (r"javascript|node\.?js|express(?:\.js)?|vue(?:\.?js)?", JAVASCRIPT),
    (r"bash|shell script|posix sh|shell", SHELL),
    (r"golang|go (?:function|program|code|struct)|in go", "go"),
    (r"rust", "rust"),
    (r"c\+\+", "cpp"),
    (r"c#|\.net", "csharp"),
    (r"java", "java"),
    (r"kotlin", "kotlin"),
    (r"ruby|rails", "ruby"),
    (r"php|laravel", "php"),
    (r"swift", "swift"),
    (r"sql (?:query|statement|table)|postgresql query", "sql"),
    (r"html", "html"),
    (r"css", "css"),
    (r"in c|c (?:function|program)", "c"),
)
_MAX_SEARCHED_CHARACTERS = 10_000
_CONTEXT_KEYS = ("language", "programming_language", "framework", "project_type")


def canonical_name(name: str) -> str | None:
    """The canonical name for what people and code fences write ("py", "C++"), or None."""
    word = name.strip().lower()
    return word if word in _EXTENSIONS else _ALIASES.get(word)


def detect_from_path(path: str) -> str | None:
    """The language of a file by its extension, or None."""
    return _LANGUAGE_BY_EXTENSION.get(PurePosixPath(path).suffix.lstrip(".").lower())


def extension(language: str | None) -> str:
    """The extension of a new file of that language, without the dot."""
    return _EXTENSIONS.get(language or "", ("txt",))[0]


def detect_for_request(request: TaskRequest) -> str:
    """The language to answer in: from tests, context, files or prompt, in this order, or Python."""
    return (
        _most_common_language(request.tests)
        or _detect_from_context(request.context)
        or _most_common_language(request.files)
        or _detect_from_words(request.prompt)
        or PYTHON
    )


def _most_common_language(files: Iterable[SourceFile]) -> str | None:
    """The language of most of these files; data and markup formats don't count."""
    no_program = {"json", "toml", "yaml", "markdown", None}
    counts = Counter(detect_from_path(file.path) for file in files)
    programs = {name: count for name, count in counts.items() if name not in no_program}
    return max(programs, key=lambda name: programs[name]) if programs else None


def _detect_from_context(context: dict[str, Any]) -> str | None:
    for key in _CONTEXT_KEYS:
        value = context.get(key)
        if isinstance(value, str):
            language = canonical_name(value) or _detect_from_words(value)
            if language:
                return language
    return None


def _detect_from_words(text: str) -> str | None:
    """The language that is mentioned first; Python if the text itself is Python code."""
    tree = python_source.parse_module(text)
    if tree is not None and python_source.definitions(tree):
        return PYTHON
    beginning = text[:_MAX_SEARCHED_CHARACTERS]
    mentions: list[tuple[int, int, str]] = []
    for rank, (words, language) in enumerate(_WORDS):
        match = re.search(rf"(?<![\w.#+])(?:{words})(?![\w+#])", beginning, re.IGNORECASE)
        if match:
            mentions.append((match.start(), rank, language))
    return min(mentions)[2] if mentions else None
