"""One confined execution of untrusted code: what goes in, what comes out."""

from enum import StrEnum

from msgspec import Struct, field

MIB = 1024 * 1024


class SandboxFile(Struct, frozen=True):
    """`path` is relative to the workspace, without `..`; parents are made as needed."""

    path: str
    content: bytes
    executable: bool = False


class Limits(Struct, frozen=True):
    """What one run may use. Seconds, bytes and counts; `cpus` are processors at a time."""

    wall_s: float = 10.0
    cpu_s: float = 10.0
    memory_bytes: int = 256 * MIB
    processes: int = 64
    workspace_bytes: int = 64 * MIB
    workspace_files: int = 4096
    tmp_bytes: int = 32 * MIB
    output_kept_bytes: int = 1 * MIB
    output_killed_bytes: int = 16 * MIB
    artifact_bytes: int = 16 * MIB
    artifact_files: int = 256
    cpus: float = 1.0


class RunRequest(Struct, frozen=True):
    """A program to run in an empty workspace that holds `files`.

    `argv[0]` is looked up on the sandbox's own PATH: `python` is always the box's
    own interpreter (with pytest), `sh` the host's shell. `env` is the whole
    environment beside PATH, HOME, LANG and TMPDIR. `artifacts` are glob patterns,
    relative to the workspace, of the files to bring back.
    """

    argv: tuple[str, ...]
    files: tuple[SandboxFile, ...] = ()
    stdin: bytes = b""
    env: dict[str, str] = field(default_factory=dict[str, str])
    limits: Limits = Limits()
    artifacts: tuple[str, ...] = ()


class OutputStream(StrEnum):
    STDOUT = "stdout"
    STDERR = "stderr"


class EndReason(StrEnum):
    """Why a run ended. Everything but EXITED and SIGNALLED is the sandbox's doing."""

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
    """What confinement a run really had. `degraded` names what this machine lacks."""

    backend: str
    level: IsolationLevel
    layers: tuple[str, ...]
    degraded: tuple[str, ...] = ()


class RunUsage(Struct, frozen=True):
    """`max_rss_bytes` is the largest process's, where the program ended by itself.

    Of a run that was killed it is what all in it had together, files in memory included, where
    the kernel counts that.
    """

    wall_s: float
    cpu_s: float
    max_rss_bytes: int


class RunResult(Struct, frozen=True):
    """`exit_code` is set for EXITED, `signal` for SIGNALLED; output is capped."""

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

    @property
    def ok(self) -> bool:
        return self.reason is EndReason.EXITED and self.exit_code == 0


class BackendStatus(Struct, frozen=True):
    """Answer of a probe that really ran something.

    `problem` says what is missing and `remedy` how to get it, where not available.
    `languages` maps what can be run to the version found, e.g. {"python": "3.11.7"}, and
    `languages_failed` what is there but does not work to how it failed.
    """

    name: str
    available: bool
    isolation: Isolation | None = None
    languages: dict[str, str] = field(default_factory=dict[str, str])
    languages_failed: dict[str, str] = field(default_factory=dict[str, str])
    problem: str = ""
    remedy: str = ""
