"""Requests and answers as Piston's clients know them (its API, version 2).

Times are milliseconds, memory is bytes; a limit of -1 means: the box's own.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Count = Annotated[float, Meta(ge=-1)]
Args = Annotated[list[str], Meta(max_length=256)]


class PistonFile(Struct):
    """Without a name the file gets the one that its language expects."""

    content: str
    name: str | None = None
    encoding: Literal["utf8", "base64", "hex"] = "utf8"


class ExecuteBody(Struct):
    language: str
    version: str
    files: Annotated[list[PistonFile], Meta(min_length=1)]
    stdin: str = ""
    args: Args = field(default_factory=list[str])
    run_timeout: Count | None = None
    compile_timeout: Count | None = None
    run_cpu_time: Count | None = None
    compile_cpu_time: Count | None = None
    run_memory_limit: Count | None = None
    compile_memory_limit: Count | None = None


class StageAnswer(Struct):
    """`output` is stdout and stderr in one; `status` is null where nothing went wrong."""

    stdout: str
    stderr: str
    output: str
    code: int | None
    signal: str | None
    message: str | None
    status: str | None
    cpu_time: int | None
    wall_time: int | None
    memory: int | None


class ExecuteAnswer(Struct):
    """`compile` is there for compiled languages only; where it failed, `run` shows it too."""

    language: str
    version: str
    run: StageAnswer
    compile: StageAnswer | UnsetType = UNSET


class RuntimeAnswer(Struct):
    language: str
    version: str
    aliases: list[str]
