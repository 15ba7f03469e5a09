"""Programming languages: their names, their files, and which one a request means."""

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
_OF_EXTENSION = {extension: name for name, all_ in _EXTENSIONS.items() for extension in all_}
_ALIASES = _OF_EXTENSION | {
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
# Words of a prompt that name a language, in the order of how sure they make us.
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
_SAID_BY_THEN = 10_000
_CONTEXT_KEYS = ("language", "programming_language", "framework", "project_type")


def canonical(name: str) -> str | None:
    """The name used here for what people and code fences write ("py", "C++"), or None."""
    word = name.strip().lower()
    return word if word in _EXTENSIONS else _ALIASES.get(word)


def of_path(path: str) -> str | None:
    """The language of a file, by its extension."""
    return _OF_EXTENSION.get(PurePosixPath(path).suffix.lstrip(".").lower())


def extension(language: str | None) -> str:
    """The extension of a new file of that language, without the dot."""
    return _EXTENSIONS.get(language or "", ("txt",))[0]


def of_request(request: TaskRequest) -> str:
    """The language to answer in: from tests, context, the prompt's words, files; else Python."""
    return (
        _commonest(request.tests)
        or _of_context(request.context)
        or _commonest(request.files)
        or _of_words(request.prompt)
        or PYTHON
    )


def _commonest(files: Iterable[SourceFile]) -> str | None:
    """The language of most of these files; only languages one can write programs in."""
    no_program = {"json", "toml", "yaml", "markdown", None}
    counted = Counter(of_path(file.path) for file in files)
    programs = {name: count for name, count in counted.items() if name not in no_program}
    return max(programs, key=lambda name: programs[name]) if programs else None


def _of_context(context: dict[str, Any]) -> str | None:
    for key in _CONTEXT_KEYS:
        value = context.get(key)
        if isinstance(value, str):
            found = canonical(value) or _of_words(value)
            if found:
                return found
    return None


def _of_words(text: str) -> str | None:
    """The language whose word comes first; Python where the text itself is Python."""
    tree = python_source.parse(text)
    if tree is not None and python_source.definitions(tree):
        return PYTHON
    beginning = text[:_SAID_BY_THEN]
    found: list[tuple[int, int, str]] = []
    for rank, (words, language) in enumerate(_WORDS):
        match = re.search(rf"(?<![\w.#+])(?:{words})(?![\w+#])", beginning, re.IGNORECASE)
        if match:
            found.append((match.start(), rank, language))
    return min(found)[2] if found else None
