"""Request and response bodies of runs in the sandbox."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Words = Annotated[list[str], Meta(max_length=256)]
Variables = Annotated[dict[str, str], Meta(max_length=256)]
Encoding = Literal["utf-8", "base64"]


class SandboxFileBody(Struct, forbid_unknown_fields=True):
    """A file of the workspace. `content` is text or base64, as `encoding` says."""

    path: str
    content: str
    encoding: Encoding = "utf-8"
    executable: bool = False


class LimitsBody(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Limits below the server's own: seconds, bytes, counts; `cpus` is a number of CPUs.

    The fields are those of appliance.domain.sandbox_limits. `wall_s` and `cpu_s` count from the
    program's start; a compiler before it has the server's own of these two.
    """

    wall_s: float | None = None
    cpu_s: float | None = None
    memory_bytes: int | None = None
    processes: int | None = None
    workspace_bytes: int | None = None
    workspace_files: int | None = None
    tmp_bytes: int | None = None
    output_kept_bytes: int | None = None
    output_killed_bytes: int | None = None
    artifact_bytes: int | None = None
    artifact_files: int | None = None
    cpus: float | None = None


class RunBody(Struct, forbid_unknown_fields=True):
    """A program: `language` with `code` or `files`, or `argv`.

    `code` is the main file; else `entry` names the main one of `files` (default: the first).
    `artifacts` are patterns of files to return.
    """

    language: str | None = None
    code: str | None = None
    argv: Words | None = None
    files: list[SandboxFileBody] = field(default_factory=list[SandboxFileBody])
    entry: str | None = None
    args: Words = field(default_factory=list[str])
    stdin: str = ""
    stdin_encoding: Encoding = "utf-8"
    environment: Variables = field(default_factory=dict[str, str])
    limits: LimitsBody = field(default_factory=LimitsBody)
    artifacts: Words = field(default_factory=list[str])


class ArtifactAnswer(Struct):
    """`content` is text, or base64 if the bytes are not UTF-8; `size` is in bytes."""

    path: str
    size: int
    content: str
    encoding: Encoding
    executable: bool


class UsageAnswer(Struct):
    wall_s: float
    cpu_s: float
    max_rss_bytes: int


class IsolationAnswer(Struct):
    """`degraded` names the layers that this machine lacks."""

    backend: str
    level: str
    layers: list[str]
    degraded: list[str]


class BuildAnswer(Struct):
    """The result of the compilation, which has the limits `wall_s` and `cpu_s` for itself.

    `stdout` and `stderr` are the start of its output; empty if the sandbox had to end it.
    """

    reason: str
    exit_code: int | None
    signal: int | None
    stdout: str
    stderr: str
    usage: UsageAnswer


class RunAnswer(Struct):
    """The result of a run. `ok`: it exited with code 0.

    `stdout` and `stderr` are text; if the bytes are not UTF-8, invalid ones are replaced and
    `…_base64` has the exact bytes. `truncated`: the middle of the output is missing.
    """

    ok: bool
    reason: str
    exit_code: int | None
    signal: int | None
    stdout: str
    stdout_base64: str | None
    stderr: str
    stderr_base64: str | None
    truncated: bool
    language: str | None
    version: str | None
    build: BuildAnswer | None
    usage: UsageAnswer
    artifacts: list[ArtifactAnswer]
    artifacts_refused: list[str]
    isolation: IsolationAnswer


class LanguageAnswer(Struct):
    """`main_file` is the name of the file for a request with `code`.

    That of a Java program is named after its public class, else after the class of `main`.
    """

    name: str
    version: str
    aliases: list[str]
    extensions: list[str]
    compiled: bool
    main_file: str


class LanguagesAnswer(Struct):
    """The available languages. While `complete` is false, some are still being tested."""

    languages: list[LanguageAnswer]
    complete: bool
    live_output: bool
    available: bool
    problem: str | None
    remedy: str | None
    isolation: IsolationAnswer | None
    limits: dict[str, Any]
