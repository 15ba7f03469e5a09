"""How programs of each language are built and run, in one sandbox by one command."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from appliance.domain import toolchain_cache

_MARK = re.compile(r"\{(entry|sources|main)\}")
_BUILD = "/tmp/build"  # noqa: S108 - the sandbox's own
_LOG_BYTES = 65536
_PREPARED = toolchain_cache.INSIDE


class Recipe(Struct, frozen=True):
    """One language. In `build`, `version` and `run`, {words} stand for what a program brings:

    {entry} is its main file, {sources} all its source files, {main} the main file's bare
    name. `build` is empty where nothing is compiled. `tool` has to be found for it to work;
    `sample` is a program that prints "works". `prepare` is for a language that is slow at
    first: it makes, in an empty folder, what runs then find (see domain.prepared).
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
    prepare: str = ""

    @property
    def main_file(self) -> str:
        """The name of a program's file where the caller gives none."""
        return self.default_file or f"main.{self.extensions[0]}"


_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -Xshare:auto -Xss1m"
_JAVA_ROOM = "-Xms16m -Xmx96m -XX:ReservedCodeCacheSize=24m -XX:CompressedClassSpaceSize=24m"

_GO = "env GO111MODULE=off CGO_ENABLED=0 GOTELEMETRY=off GOTOOLCHAIN=local"

RECIPES = (
    Recipe(
        name="python",
        aliases=("py", "python3"),
        extensions=("py",),
        tool="python",
        version="python -c 'import platform; print(platform.python_version())'",
        run="python {entry}",
        sample="print('works')\n",
    ),
    Recipe(
        name="sh",
        aliases=("shell",),
        extensions=("sh",),
        tool="sh",
        version="p=$(readlink -f /bin/sh); p=${p:-sh}; echo ${p##*/}",
        run="sh {entry}",
        sample="echo works\n",
    ),
    Recipe(
        name="bash",
        aliases=(),
        extensions=("bash", "sh"),
        tool="bash",
        version="bash -c 'echo ${BASH_VERSION%%(*}'",
        run="bash {entry}",
        sample="a=(works); echo ${a[0]}\n",
    ),
    Recipe(
        name="node",
        aliases=("javascript", "js", "nodejs", "node-js", "node-javascript"),
        extensions=("js", "cjs", "mjs"),
        tool="node",
        version="node -p process.versions.node",
        run="node {entry}",
        sample="console.log('works')\n",
    ),
    Recipe(
        name="c",
        aliases=("gcc",),
        extensions=("c",),
        tool="cc",
        version="cc -dumpfullversion -dumpversion",
        build=f"cc -O1 -o {_BUILD}/program -x c {{sources}} -x none -lm",
        run=f"{_BUILD}/program",
        sample='#include <stdio.h>\nint main(void) { puts("works"); return 0; }\n',
    ),
    Recipe(
        name="cpp",
        aliases=("c++", "g++", "cplusplus"),
        extensions=("cpp", "cc", "cxx"),
        tool="c++",
        version="c++ -dumpfullversion -dumpversion",
        build=f"c++ -O1 -o {_BUILD}/program -x c++ {{sources}} -x none -lm",
        run=f"{_BUILD}/program",
        sample='#include <iostream>\nint main() { std::cout << "works" << std::endl; }\n',
    ),
    Recipe(
        name="go",
        aliases=("golang",),
        extensions=("go",),
        tool="go",
        version="go version | cut -d' ' -f3 | sed s/^go//",
        # Links to what is ready-made: the compiler wants to write beside it.
        build=f"cp -rs {_PREPARED}/go {_BUILD}/go 2>/dev/null; {_GO} GOCACHE={_BUILD}/go "
        f"GOPATH={_BUILD}/path go build -o {_BUILD}/program {{sources}}",
        run=f"{_BUILD}/program",
        sample='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("works") }\n',
        # Newer ones come without their library compiled.
        prepare=f"{_GO} GOCACHE=$PWD GOPATH=/tmp/path GOFLAGS=-p=1 go build std",
    ),
    Recipe(
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
    Recipe(
        name="java",
        aliases=(),
        extensions=("java",),
        tool="javac",
        version=f"java {_JAVA} {_JAVA_ROOM} --version | sed -n '1s/[^ ]* \\([^ ]*\\).*/\\1/p'",
        build=f"javac {' '.join('-J' + word for word in f'{_JAVA} {_JAVA_ROOM}'.split())} "
        f"-encoding UTF-8 -d {_BUILD} {{sources}}",
        # The class's name begins with that of its package, if it says to be in one.
        run=f"java {_JAVA} {_JAVA_ROOM} -cp {_BUILD}:. "
        "$(sed -n 's/^ *package  *\\([A-Za-z0-9_.]*\\) *;.*/\\1./p' {entry} | head -n 1){main}",
        sample="class Main { public static void main(String[] a) "
        '{ System.out.println("works"); } }\n',
        default_file="Main.java",
    ),
)  # fmt: skip


def find(name: str) -> Recipe | None:
    """The recipe of a language by its name or one of its aliases, in any case."""
    wanted = name.strip().lower()
    return next((each for each in RECIPES if wanted in (each.name, *each.aliases)), None)


def command(
    recipe: Recipe, entry: str, paths: Sequence[str], args: Sequence[str], log: str
) -> tuple[str, ...]:
    """The argv that builds (where that is needed) and runs the program.

    What the compiler said goes into the file `log` of the workspace, for `build_log`.
    """
    if recipe.build:
        return ("sh", "-c", _script(recipe, entry, paths, log), "sh", *args)
    # Without a shell between, an interpreter that waits can go on with it.
    # Behind ./ no name can pass for an option, or for one of the interpreter's own commands.
    named = entry if entry[0].isalnum() and "." in entry else f"./{entry}"
    return (*(named if word == "{entry}" else word for word in recipe.run.split()), *args)


def _script(recipe: Recipe, entry: str, paths: Sequence[str], log: str) -> str:
    words = _words(recipe, entry, paths)
    run = f'exec {_filled(recipe.run, words)} "$@"'
    out, err = f"{_BUILD}/.stdout", f"{_BUILD}/.stderr"
    return f"""mkdir {_BUILD} && cd /workspace || exit 125
{_filled(recipe.build, words)} </dev/null >{out} 2>{err}
status=$?
size=$(head -c {_LOG_BYTES} {out} | wc -c)
{{ echo "$status $size"; head -c {_LOG_BYTES} {out}; head -c {_LOG_BYTES} {err}; }} >{log}
if [ $status -ne 0 ]; then cat {out}; cat {err} >&2; exit $status; fi
rm {out} {err}
{run}"""


def _words(recipe: Recipe, entry: str, paths: Sequence[str]) -> dict[str, str]:
    sources = [path for path in paths if PurePosixPath(path).suffix[1:] in recipe.extensions]
    if entry not in sources:
        sources.insert(0, entry)
    return {
        "entry": _quoted(entry),
        "sources": " ".join(map(_quoted, sources)),
        "main": _quoted(PurePosixPath(entry).stem),
    }


def _quoted(path: str) -> str:
    # Behind ./ no name can pass for an option.
    return shlex.quote(path if "/" not in path and path.isidentifier() else f"./{path}")


def _filled(template: str, words: dict[str, str]) -> str:
    # In one pass: a name may itself look like one of the marks.
    return _MARK.sub(lambda found: words[found[1]], template)
