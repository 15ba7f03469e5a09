"""Sandbox runs: request, limits, result, and the status of a backend."""

from enum import StrEnum

from msgspec import Struct, field

from appliance.domain.sandbox_limits import field_default

MIB = 1024 * 1024


class SandboxFile(Struct, frozen=True):
    """`path` is relative to the workspace, without `..`; parent folders are created."""

    path: str
    content: bytes
    executable: bool = False


class Limits(Struct, frozen=True):
    """Limits of one run, described in `sandbox_limits`.

    Seconds, bytes and counts; `cpus` is the number of processors at a time.
    """

    wall_s: float = field_default("wall_s")
    cpu_s: float = field_default("cpu_s")
    memory_bytes: int = field_default("memory_bytes")
    processes: int = field_default("processes")
    workspace_bytes: int = field_default("workspace_bytes")
    workspace_files: int = field_default("workspace_files")
    tmp_bytes: int = field_default("tmp_bytes")
    output_kept_bytes: int = field_default("output_kept_bytes")
    output_killed_bytes: int = field_default("output_killed_bytes")
    artifact_bytes: int = field_default("artifact_bytes")
    artifact_files: int = field_default("artifact_files")
    cpus: float = field_default("cpus")


class BuildStep(Struct, frozen=True):
    """A command that runs before the program, in the same sandbox.

    The program starts only if it exits with code 0; else its output and exit code are the run's.
    `wall_s` and `cpu_s` limit it alone, the other limits of the run hold for both.
    """

    argv: tuple[str, ...]
    wall_s: float
    cpu_s: float


class WorkspaceTransfer(Struct, frozen=True):
    """A workspace that outlives the run, as an archive (appliance.spi.workspace_archive).

    The run starts with the first `source_bytes` of the file `source` ("": an empty workspace). At
    its end the workspace is written to the new file `target` ("": it is not kept), unless the run
    is cancelled.
    """

    target: str
    source: str = ""
    source_bytes: int = 0


class RunRequest(Struct, frozen=True):
    """A program to run in a workspace that holds `files` and nothing else.

    `argv[0]` is looked up on the sandbox's PATH: `python` is always the sandbox's own interpreter
    (with pytest), `sh` the host's shell. `env` is the whole environment beside PATH, HOME, LANG,
    TMPDIR and PYTHONUNBUFFERED. `artifacts` are glob patterns, relative to the workspace, of files
    to return. With `workspace`, the files are added to it and replace those of the same name.

    `base` is a folder of the host ("": none) that belongs to one user, below the workspace: the
    program sees its files and may change them, the folder stays as it is. A workspace that is kept
    then holds what differs from it, unless the base was copied (`RunResult.base`).
    """

    argv: tuple[str, ...]
    files: tuple[SandboxFile, ...] = ()
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict[str, str])
    limits: Limits = Limits()
    artifacts: tuple[str, ...] = ()
    build: BuildStep | None = None
    workspace: WorkspaceTransfer | None = None
    base: str = ""


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


class EndReason(StrEnum):
    """Why a run ended. All but EXITED and SIGNALLED mean that the sandbox ended it."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    WALL_TIME = "wall_time"
    CPU_TIME = "cpu_time"
    MEMORY = "memory"
    OUTPUT = "output"
    CANCELLED = "cancelled"


class IsolationLevel(StrEnum):
    MICROVM = "microvm"
    GVISOR = "gvisor"
    NAMESPACES = "namespaces"


class Isolation(Struct, frozen=True):
    """The confinement that a run had. `degraded` lists layers that this machine lacks."""

    backend: str
    level: IsolationLevel
    layers: tuple[str, ...]
    degraded: tuple[str, ...] = ()


class RunUsage(Struct, frozen=True):
    """`max_rss_bytes` is that of the largest process if the program ended by itself.

    For a run that was killed it is the total of all processes and of files in memory, if the
    kernel counts that; a build step is then included.
    """

    wall_s: float
    cpu_s: float
    max_rss_bytes: int


class BuildReport(Struct, frozen=True):
    """How a build step ended, and the start of its output: none if the sandbox was killed."""

    reason: EndReason
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    usage: RunUsage

    @property
    def ok(self) -> bool:
        return self.reason is EndReason.EXITED and self.exit_code == 0


class BaseMeans(StrEnum):
    """How a run saw its base: by an overlay mount, or copied into its workspace."""

    OVERLAY = "overlay"
    COPY = "copy"


class WorkspaceReport(Struct, frozen=True):
    """Whether the workspace was written to `WorkspaceTransfer.target`; if not, `problem` says why.

    `refused` lists what is in no archive, with the reason: sockets, pipes, names that are too long
    or not UTF-8.
    """

    saved: bool
    problem: str = ""
    refused: tuple[str, ...] = ()


class RunResult(Struct, frozen=True):
    """`exit_code` is set for EXITED, `signal` for SIGNALLED; output is truncated to the limit.

    `build` is set if the request has a build step. If that failed, the usage is the build's.
    `workspace` is set if the request keeps one, `base` if it has one.
    """

    reason: EndReason
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    output_truncated: bool
    usage: RunUsage
    isolation: Isolation
    artifacts: tuple[SandboxFile, ...] = ()
    artifacts_refused: tuple[str, ...] = ()
    build: BuildReport | None = None
    workspace: WorkspaceReport | None = None
    base: BaseMeans | None = None

    @property
    def ok(self) -> bool:
        return self.reason is EndReason.EXITED and self.exit_code == 0


class BackendStatus(Struct, frozen=True):
    """Result of a probe, which runs a program in the sandbox.

    If it is not available, `problem` says what is missing and `remedy` how to get it.
    `languages` maps usable languages to their versions, e.g. {"python": "3.11.7"};
    `languages_failed` maps installed languages that don't work to the error.
    """

    name: str
    available: bool
    isolation: Isolation | None = None
    languages: dict[str, str] = field(default_factory=dict[str, str])
    languages_failed: dict[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    remedy: str = ""
