"""Language recipes: how programs of each language are built and run, by one command."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from appliance.domain import toolchain_cache

_PLACEHOLDER = re.compile(r"\{(entry|sources|main)\}")
_BUILD = "/tmp/build"  # noqa: S108 - the sandbox's own
_LOG_BYTES = 65536
_CACHE = toolchain_cache.MOUNT_POINT


class LanguageRecipe(Struct, frozen=True):
    """One language. `build` and `run` are command templates:

    {entry} is the main file, {sources} all source files, {main} the main file's name without
    extension. `build` is empty if nothing is compiled. `tool` must be on the PATH; `version` is a
    shell command that prints the version; `sample` is a program that prints "works".
    `cache_command` fills the empty current folder with artifacts that runs find later (see
    domain.toolchain_cache); "" if the language needs none.
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
_JAVA_MEMORY = "-Xms16m -Xmx96m -XX:ReservedCodeCacheSize=24m -XX:CompressedClassSpaceSize=24m"

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
        version=f"java {_JAVA} {_JAVA_MEMORY} --version | sed -n '1s/[^ ]* \\([^ ]*\\).*/\\1/p'",
        build=f"javac {' '.join('-J' + word for word in f'{_JAVA} {_JAVA_MEMORY}'.split())} "
        f"-encoding UTF-8 -d {_BUILD} {{sources}}",
        # The class name is qualified by its package, if it declares one.
        run=f"java {_JAVA} {_JAVA_MEMORY} -cp {_BUILD}:. "
        "$(sed -n 's/^ *package  *\\([A-Za-z0-9_.]*\\) *;.*/\\1./p' {entry} | head -n 1){main}",
        sample="class Main { public static void main(String[] a) "
        '{ System.out.println("works"); } }\n',
        default_file="Main.java",
    ),
)  # fmt: skip


def find_recipe(name: str) -> LanguageRecipe | None:
    """The recipe of a language by its name or an alias, ignoring case; None if unknown."""
    name = name.strip().lower()
    return next((each for each in RECIPES if name in (each.name, *each.aliases)), None)


def build_command(
    recipe: LanguageRecipe, entry: str, paths: Sequence[str], args: Sequence[str], log: str
) -> tuple[str, ...]:
    """The argv that builds (if needed) and runs the program.

    The compiler's output is written to the file `log` of the workspace.
    """
    if recipe.build:
        return ("sh", "-c", _build_script(recipe, entry, paths, log), "sh", *args)
    # No shell in between, so that a pre-started interpreter can be used. The prefix ./ keeps a
    # name from being taken for an option or a command of the interpreter.
    path = entry if entry[0].isalnum() and "." in entry else f"./{entry}"
    return (*(path if word == "{entry}" else word for word in recipe.run.split()), *args)


def _build_script(recipe: LanguageRecipe, entry: str, paths: Sequence[str], log: str) -> str:
    values = _placeholder_values(recipe, entry, paths)
    run = f'exec {_fill_template(recipe.run, values)} "$@"'
    out, err = f"{_BUILD}/.stdout", f"{_BUILD}/.stderr"
    return f"""mkdir {_BUILD} && cd /workspace || exit 125
{_fill_template(recipe.build, values)} </dev/null >{out} 2>{err}
status=$?
size=$(head -c {_LOG_BYTES} {out} | wc -c)
{{ echo "$status $size"; head -c {_LOG_BYTES} {out}; head -c {_LOG_BYTES} {err}; }} >{log}
if [ $status -ne 0 ]; then cat {out}; cat {err} >&2; exit $status; fi
rm {out} {err}
{run}"""


def _placeholder_values(recipe: LanguageRecipe, entry: str, paths: Sequence[str]) -> dict[str, str]:
    sources = [path for path in paths if PurePosixPath(path).suffix[1:] in recipe.extensions]
    if entry not in sources:
        sources.insert(0, entry)
    return {
        "entry": _quote(entry),
        "sources": " ".join(map(_quote, sources)),
        "main": _quote(PurePosixPath(entry).stem),
    }


def _quote(path: str) -> str:
    # The prefix ./ keeps a name from being taken for an option.
    return shlex.quote(path if "/" not in path and path.isidentifier() else f"./{path}")


def _fill_template(template: str, values: dict[str, str]) -> str:
    # In one pass, since a name may itself look like a placeholder.
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)
