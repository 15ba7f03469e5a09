"""The programs of each language, and which of them the setting sandbox.languages hides."""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

ALL_LANGUAGES = "*"

PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "python": ("python", "pypy"),
    "sh": ("sh", "dash"),
    "bash": ("bash", "rbash"),
    "node": ("node", "nodejs", "npm", "npx", "corepack"),
    "c": ("cc", "gcc", "clang", "tcc", "c89", "c89-gcc", "c99", "c99-gcc"),
    "cpp": ("c++", "g++", "clang++"),
    "go": ("go", "gofmt"),
    "rust": ("rustc", "cargo"),
    "java": ("java", "javac", "jshell", "jar"),
}
"""Names without a version, by the language's name."""

# Tools of the sandbox itself need these.
_ALWAYS_OFFERED = frozenset({"python", "sh"})
# The linker of rustc is the C compiler's.
_USED_BY: Mapping[str, tuple[str, ...]] = {"c": ("rust",)}
_VERSION = re.compile(r"[-.\d]+\Z")
# As in x86_64-linux-gnu-gcc.
_TARGET = re.compile(r"\A\w+-linux-gnu\w*-")


def is_offered(language: str, enabled: Collection[str]) -> bool:
    """Whether `enabled`, the setting's value, has this language."""
    return bool({language, ALL_LANGUAGES} & set(enabled)) or language in _ALWAYS_OFFERED


def language_of_program(program: str) -> str | None:
    """The language of a program by its name: python for /usr/bin/python3.11; None if unknown."""
    name = _TARGET.sub("", PurePosixPath(program).name)
    names = {name, _VERSION.sub("", name)}
    return next((each for each, programs in PROGRAMS.items() if names & set(programs)), None)


def is_hidden(program: str, enabled: Collection[str]) -> bool:
    """Whether a program belongs to a language that neither is offered nor serves one that is."""
    language = language_of_program(program)
    if language is None:
        return False
    return not any(is_offered(each, enabled) for each in (language, *_USED_BY.get(language, ())))
