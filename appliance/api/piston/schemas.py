"""Requests and answers of Piston's API, version 2.

Times are in milliseconds, memory is in bytes. A limit of 0 or -1 means the server's maximum.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

Count = Annotated[float, Meta(ge=-1)]
Args = Annotated[list[str], Meta(max_length=256)]


class PistonFile(Struct):
    """Without `name`, a file gets the name that its language expects."""

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
    """`output` is stdout and stderr in order of arrival.

    `status` is null on success.
    """

    stdout: str
    stderr: str
    output: str
    code: int | None
    signal: str | None
    message: str | None
    status: str | None
    cpu_time: int
    wall_time: int
    memory: int


class ExecuteAnswer(Struct):
    """`compile` exists for compiled languages only; if it failed, `run` repeats it."""

    language: str
    version: str
    run: StageAnswer
    compile: StageAnswer | UnsetType = UNSET


class RuntimeAnswer(Struct):
    """`runtime` is the name of the interpreter, if it differs from the language."""

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
