"""Requests and answers as Piston's clients know them (its API, version 2).

Times are milliseconds, memory is bytes; a limit of -1 or 0 means: the box's own.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Count = Annotated[float, Meta(ge=-1)]
Args = Annotated[list[str], Meta(max_length=256)]


class PistonFile(Struct):
    """Without a name the file gets the one that its language expects."""

    content: str
    name: str | None = None
    encoding: Literal["utf8", "utf-8", "base64", "hex"] | None = None


class ExecuteBody(Struct):
    language: str
    version: str
    files: Annotated[list[PistonFile], Meta(min_length=1)]
    stdin: str | None = None
    args: Args | None = None
    run_timeout: Count | None = None
    compile_timeout: Count | None = None
    run_cpu_time: Count | None = None
    compile_cpu_time: Count | None = None
    run_memory_limit: Count | None = None
    compile_memory_limit: Count | None = None


class StageAnswer(Struct):
    """`output` is stdout and stderr in one, in the order in which they came.

    `status` is null where nothing went wrong. The figures are left out where the stage
    shared its sandbox with another one.
    """

    stdout: str
    stderr: str
    output: str
    code: int | None
    signal: str | None
    message: str | None
    status: str | None
    cpu_time: int | UnsetType = UNSET
    wall_time: int | UnsetType = UNSET
    memory: int | UnsetType = UNSET


class ExecuteAnswer(Struct):
    """`compile` is there for compiled languages only; where it failed, `run` shows it too."""

    language: str
    version: str
    run: StageAnswer
    compile: StageAnswer | UnsetType = UNSET


class RuntimeAnswer(Struct):
    """`runtime` names what runs the language, where that is another word."""

    language: str
    version: str
    aliases: list[str]
    runtime: str | UnsetType = UNSET


class PackageBody(Struct):
    language: str
    version: str


class PackageAnswer(Struct):
    language: str
    version: str


class PackageEntry(Struct):
    language: str
    language_version: str
    installed: bool
