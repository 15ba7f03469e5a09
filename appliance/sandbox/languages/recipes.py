"""Language recipes: how programs of each language are built and run, by one command."""

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from appliance.domain import toolchain_cache
from appliance.domain.execution import MIB, SandboxFile
from appliance.sandbox.languages import entrypoints

_PLACEHOLDER = re.compile(r"\{(entry|sources|main|heap)\}")
_BUILD = "/tmp/build"  # noqa: S108 - the sandbox's own
_CACHE = toolchain_cache.MOUNT_POINT


class LanguageRecipe(Struct, frozen=True):
    """One language. `build` and `run` are command templates:

    {entry} is the main file, {sources} all source files, {main} the main class of a Java program,
    {heap} the size of a heap in MiB that fits into the run's memory. `build` is empty if nothing
    is compiled. `tool` must be on the PATH; `version` is a shell command that prints the version;
    `sample` is a program that prints "works". `cache_command` fills the empty current folder with
    artifacts that runs find later (see domain.toolchain_cache); "" if the language needs none.
    """

    name: str
    aliases: tuple[str, ...]
    extensions: tuple[str, ...]
    tool: str
    version: str
    run: str
    sample: str
    build: str = ""
    default_file: str = ""
    cache_command: str = ""

    @property
    def main_file(self) -> str:
        """The name of a program's main file if the caller gives none."""
        return self.default_file or f"main.{self.extensions[0]}"


_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Xshare:auto -Xss1m"
_JAVA_MEMORY = "-Xms16m -Xmx{heap}m -XX:ReservedCodeCacheSize=24m -XX:CompressedClassSpaceSize=24m"
# The rest is for the virtual machine itself, which needs about 80 MiB.
_HEAP_SHARE = 5 / 8
_MIN_HEAP_MIB = 16

_GO = "env GO111MODULE=off CGO_ENABLED=0 GOTELEMETRY=off GOTOOLCHAIN=local"

RECIPES = (
    LanguageRecipe(
        name="python",
        aliases=("py", "python3"),
        extensions=("py",),
        tool="python",
        version="python -c 'import platform; print(platform.python_version())'",
        run="python {entry}",
        sample="print('works')\n",
    ),
    LanguageRecipe(
        name="sh",
        aliases=("shell",),
        extensions=("sh",),
        tool="sh",
        version="p=$(readlink -f /bin/sh); p=${p:-sh}; echo ${p##*/}",
        run="sh {entry}",
        sample="echo works\n",
    ),
    LanguageRecipe(
        name="bash",
        aliases=(),
        extensions=("bash", "sh"),
        tool="bash",
        version="bash -c 'echo ${BASH_VERSION%%(*}'",
        run="bash {entry}",
        sample="a=(works); echo ${a[0]}\n",
    ),
    LanguageRecipe(
        name="node",
        aliases=("javascript", "js", "nodejs", "node-js", "node-javascript"),
        extensions=("js", "cjs", "mjs"),
        tool="node",
        version="node -p process.versions.node",
        run="node {entry}",
        sample="console.log('works')\n",
    ),
    LanguageRecipe(
        name="c",
        aliases=("gcc",),
        extensions=("c",),
        tool="cc",
        version="cc -dumpfullversion -dumpversion",
        build=f"cc -O1 -o {_BUILD}/program -x c {{sources}} -x none -lm",
        run=f"{_BUILD}/program",
        sample='#include <stdio.h>\nint main(void) { puts("works"); return 0; }\n',
    ),
    LanguageRecipe(
        name="cpp",
        aliases=("c++", "g++", "cplusplus"),
        extensions=("cpp", "cc", "cxx"),
        tool="c++",
        version="c++ -dumpfullversion -dumpversion",
        build=f"c++ -O1 -o {_BUILD}/program -x c++ {{sources}} -x none -lm",
        run=f"{_BUILD}/program",
        sample='#include <iostream>\nint main() { std::cout << "works" << std::endl; }\n',
    ),
    LanguageRecipe(
        name="go",
        aliases=("golang",),
        extensions=("go",),
        tool="go",
        version="go version | cut -d' ' -f3 | sed s/^go//",
        # Links to the cached artifacts, since the compiler writes into the folder.
        build=f"cp -rs {_CACHE}/go {_BUILD}/go 2>/dev/null; {_GO} GOCACHE={_BUILD}/go "
        f"GOPATH={_BUILD}/path go build -o {_BUILD}/program {{sources}}",
        run=f"{_BUILD}/program",
        sample='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("works") }\n',
        # Newer versions come without a compiled standard library.
        cache_command=f"{_GO} GOCACHE=$PWD GOPATH=/tmp/path GOFLAGS=-p=1 go build std",
    ),
    LanguageRecipe(
        name="rust",
        aliases=("rs",),
        extensions=("rs",),
        tool="rustc",
        version="rustc --version | cut -d' ' -f2",
        build=f"rustc --edition 2021 -C opt-level=1 -C codegen-units=1 "
        f"-o {_BUILD}/program {{entry}}",
        run=f"{_BUILD}/program",
        sample='fn main() { println!("works"); }\n',
    ),
    LanguageRecipe(
        name="java",
        aliases=(),
        extensions=("java",),
        tool="javac",
        version=f"java {_JAVA} -Xmx32m --version | sed -n '1s/[^ ]* \\([^ ]*\\).*/\\1/p'",
        build=f"javac {' '.join('-J' + word for word in f'{_JAVA} {_JAVA_MEMORY}'.split())} "
        f"-encoding UTF-8 -d {_BUILD} {{sources}}",
        run=f"java {_JAVA} {_JAVA_MEMORY} -cp {_BUILD}:. {{main}}",
        sample="class Main { public static void main(String[] a) "
        '{ System.out.println("works"); } }\n',
        default_file="Main.java",
    ),
)  # fmt: skip


def find_recipe(name: str) -> LanguageRecipe | None:
    """The recipe of a language by its name or an alias, ignoring case; None if unknown."""
    name = name.strip().lower()
    return next((each for each in RECIPES if name in (each.name, *each.aliases)), None)


class Commands(Struct, frozen=True):
    """The argv of a program, and that of its build step; None if nothing is compiled."""

    run: tuple[str, ...]
    build: tuple[str, ...] | None = None


def make_commands(
    recipe: LanguageRecipe,
    entry: str,
    files: Sequence[SandboxFile],
    args: Sequence[str],
    memory_bytes: int,
) -> Commands:
    """The commands that build (if needed) and run the program whose main file is `entry`."""
    heap = str(max(_MIN_HEAP_MIB, int(memory_bytes / MIB * _HEAP_SHARE)))
    sources = [file for file in files if PurePosixPath(file.path).suffix[1:] in recipe.extensions]
    sources += [file for file in files if file.path == entry and file not in sources]
    copies = _java_copies(sources) if recipe.name == "java" else {}
    # The prefix ./ keeps a name from being taken for an option or a command of the interpreter.
    values = {
        "entry": entry if entry[0].isalnum() and "." in entry else f"./{entry}",
        "main": _java_main_class(entry, sources) if recipe.name == "java" else "",
        "heap": heap,
    }
    # No shell in between, so that a prewarmed interpreter can be used.
    run = (*(_fill_template(word, values) for word in recipe.run.split()), *args)
    if not recipe.build:
        return Commands(run)
    paths = [copies.get(file.path, file.path) for file in sources]
    words = {"entry": _quote(entry), "sources": " ".join(map(_quote, paths)), "heap": heap}
    steps = [f"mkdir {_BUILD}", "cd /workspace"]
    for path, copy in copies.items():
        folder = _quote(str(PurePosixPath(copy).parent))
        steps.append(f"mkdir -p {folder} && cp {_quote(path)} {_quote(copy)}")
    script = f"{' && '.join(steps)} || exit 125\n{_fill_template(recipe.build, words)}"
    return Commands(run, ("sh", "-c", script))


def _java_copies(sources: Sequence[SandboxFile]) -> dict[str, str]:
    """Copies of files that javac would refuse, since their public class has another name."""
    copies: dict[str, str] = {}
    for number, file in enumerate(sources):
        name = entrypoints.java_public_type(file.content)
        if name is not None and PurePosixPath(file.path).name != f"{name}.java":
            copies[file.path] = f"{_BUILD}/.sources/{number}/{name}.java"
    return copies


def _java_main_class(entry: str, sources: Sequence[SandboxFile]) -> str:
    content = next((file.content for file in sources if file.path == entry), b"")
    return entrypoints.java_main_class(content, PurePosixPath(entry).stem)


def _quote(path: str) -> str:
    # The prefix ./ keeps a name from being taken for an option.
    plain = path.startswith("/") or ("/" not in path and path.isidentifier())
    return shlex.quote(path if plain else f"./{path}")


def _fill_template(template: str, values: Mapping[str, str]) -> str:
    # In one pass, since a name may itself look like a placeholder.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
