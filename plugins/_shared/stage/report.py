"""Decodes the report of a sandbox's init process (frames, see init.py).

A program that took over the init process can send anything: the frames are untrusted bytes,
bounded in number and size, and each file name is checked again.
"""

import struct

from msgspec import Struct, structs

from appliance.domain.execution import (
    BuildReport,
    BuildStep,
    EndReason,
    Limits,
    RunResult,
    RunUsage,
    SandboxFile,
    WorkspaceReport,
)
from plugins._shared.stage import collect, init, paths
from plugins._shared.stage.archive_receiver import ArchiveReceiver

END_REASONS = {
    init.EXITED: EndReason.EXITED,
    init.SIGNALLED: EndReason.SIGNALLED,
    init.CPU_LIMIT: EndReason.CPU_TIME,
    init.MEMORY_LIMIT: EndReason.MEMORY,
}
# Refusals that the server adds itself.
REPORT_MALFORMED = "all artifacts: the sandbox sent a malformed report"
COLLECTION_TIMED_OUT = "the remaining artifacts: collecting them took too long"

LAST_SIGNAL = 64

_MAX_HEADER_BYTES = 512 * 1024
_MAX_ARTIFACT_NAME_BYTES = 1100  # a path of the longest form, and its headers
_MAX_REFUSALS = 256
# An init process sends a handful, and one for each file that it looks at.
_MAX_FRAMES = 25_000
_MIN_ARCHIVE_PIECE = 16384  # all but the last are larger
_MAX_REASON = 1200
_MAX_FIGURE = 1 << 40  # µs of CPU time, or KiB of memory


class BuildEnd(Struct, frozen=True):
    """How a build step ended: the values of init.EXIT_PAYLOAD, and the start of its output."""

    kind: int
    number: int
    cpu_us: int
    rss_kib: int
    stdout: bytes
    stderr: bytes

    @property
    def ok(self) -> bool:
        return (self.kind, self.number) == (init.EXITED, 0)


class Report:
    """Fed with bytes as they arrive; `malformed` once they make no sense or are too many.

    `build` is set once the build step has ended, `exit` holds the values of init.EXIT_PAYLOAD
    once the program has. `failure` is why the run could not be set up. The archive of the
    workspace goes to `receiver`, if the run has one; `archive_problem` is None until it is
    complete, then why it is of no use, or "".
    """

    def __init__(self, limits: Limits, receiver: ArchiveReceiver | None = None) -> None:
        self.prewarmed = False
        self.started = False
        self.build: BuildEnd | None = None
        self.exit: tuple[int, int, int, int] | None = None
        self.failure = ""
        self.artifacts: list[SandboxFile] = []
        self.refusals: list[str] = []
        self.archive_problem: str | None = None
        self.workspace_refusals: list[str] = []
        self.malformed = False
        self._receiver = receiver
        self._limits = limits
        self._buffer = bytearray()
        archive_bytes = receiver.max_bytes if receiver is not None else 0
        self._frames_left = _MAX_FRAMES + archive_bytes // _MIN_ARCHIVE_PIECE
        # Pieces of an archive are smaller: a frame waits in memory until it is complete.
        self._max_frame = (
            limits.artifact_bytes
            + limits.artifact_files * _MAX_ARTIFACT_NAME_BYTES
            + _MAX_HEADER_BYTES
            + 2 * init.MAX_BUILD_OUTPUT
        )
        self._bytes_left = archive_bytes + self._max_frame

    @property
    def archive_complete(self) -> bool:
        """Whether the whole archive has come, and is of use."""
        return self.archive_problem == "" and not self.malformed

    def feed(self, data: bytes) -> None:
        self._bytes_left -= len(data)
        self.malformed |= self._bytes_left < 0
        if self.malformed:
            self._buffer.clear()
            return
        self._buffer += data
        while not self.malformed and (frame := self._next_frame()):
            self._frames_left -= 1
            self.malformed = self._frames_left < 0
            try:
                self._handle(*frame)
            except (ValueError, struct.error):
                self.malformed = True

    def _next_frame(self) -> tuple[bytes, bytes] | None:
        if len(self._buffer) < init.FRAME_HEADER.size:
            return None
        kind, length = init.FRAME_HEADER.unpack_from(self._buffer)
        if length > self._max_frame:
            self.malformed = True
            return None
        end = init.FRAME_HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[init.FRAME_HEADER.size : end])
        del self._buffer[:end]
        return kind, payload

    def _handle(self, kind: bytes, payload: bytes) -> None:
        match kind:
            case b"W":
                self.prewarmed = True
            case b"S":
                self.started = True
            case b"B" if self.build is None and self.exit is None:
                self._set_build(payload)
            case b"X" if self.exit is None:
                self._set_exit(*init.EXIT_PAYLOAD.unpack(payload))
            case b"F":
                self.failure = payload[:_MAX_REASON].decode(errors="replace")
            case b"A":
                self._add_artifact(payload)
            case b"R":
                _add_refusal(self.refusals, payload.decode(errors="replace"))
            case b"K" | b"N" | b"Y" if self._receiver is not None and self.archive_problem is None:
                self._handle_archive(kind, payload, self._receiver)
            case _:
                raise ValueError(kind)

    def _handle_archive(self, kind: bytes, payload: bytes, receiver: ArchiveReceiver) -> None:
        if kind == b"K":
            receiver.add(payload)
        elif kind == b"N":
            _add_refusal(self.workspace_refusals, payload.decode(errors="replace"))
        else:
            self.archive_problem = _printable(payload.decode(errors="replace"))

    def _set_build(self, payload: bytes) -> None:
        kind, number, cpu_us, rss_kib, size = init.BUILD_HEADER.unpack_from(payload)
        output = payload[init.BUILD_HEADER.size :]
        stdout, stderr = output[:size], output[size:]
        _check_figures(cpu_us, rss_kib)
        if max(len(stdout), len(stderr)) > init.MAX_BUILD_OUTPUT:
            raise ValueError(len(payload))
        self.build = BuildEnd(kind, number, cpu_us, rss_kib, stdout, stderr)

    def _set_exit(self, kind: int, number: int, cpu_us: int, rss_kib: int) -> None:
        _check_figures(cpu_us, rss_kib)
        self.exit = kind, number, cpu_us, rss_kib

    def _add_artifact(self, payload: bytes) -> None:
        executable, length = collect.ARTIFACT_HEADER.unpack_from(payload)
        start = collect.ARTIFACT_HEADER.size
        name = payload[start : start + length].decode("utf-8", errors="surrogateescape")
        content = payload[start + length :]
        if reason := paths.path_problem(name):
            _add_refusal(self.refusals, f"{name!r} {reason}")
        elif self._is_surplus(name):
            raise ValueError(name)
        else:
            self.artifacts.append(SandboxFile(name, content, bool(executable)))

    def _is_surplus(self, name: str) -> bool:
        duplicate = any(artifact.path == name for artifact in self.artifacts)
        return duplicate or len(self.artifacts) >= self._limits.artifact_files


def _add_refusal(refusals: list[str], reason: str) -> None:
    if len(refusals) < _MAX_REFUSALS:
        refusals.append(_printable(reason))


def _printable(text: str) -> str:
    """Without control characters: the program chose the names, and terminals show them."""
    return "".join(char if char.isprintable() else "?" for char in text[:_MAX_REASON])


def _check_figures(cpu_us: int, rss_kib: int) -> None:
    if max(cpu_us, rss_kib) > _MAX_FIGURE:
        raise ValueError(max(cpu_us, rss_kib))


def add_build_report(
    result: RunResult, step: BuildStep | None, end: BuildEnd | None, wall_s: float
) -> RunResult:
    """The result with the report of its build step, if it has one, which took `wall_s`.

    `end` is None if the sandbox was killed while the step ran. If the step failed, its usage is
    the run's as well.
    """
    if step is None:
        return result
    if end is None:
        usage = structs.replace(result.usage, wall_s=wall_s)
        build = BuildReport(result.reason, None, result.signal, b"", b"", usage)
    else:
        reason = END_REASONS.get(end.kind, EndReason.SIGNALLED)
        exit_code = end.number & 0xFF if reason is EndReason.EXITED else None
        usage = RunUsage(wall_s, end.cpu_us / 1e6, end.rss_kib * 1024)
        signal = min(end.number, LAST_SIGNAL) if reason is EndReason.SIGNALLED else None
        build = BuildReport(reason, exit_code, signal, end.stdout, end.stderr, usage)
    return structs.replace(result, build=build, usage=result.usage if build.ok else usage)


def workspace_report(report: Report, receiver: ArchiveReceiver | None) -> WorkspaceReport | None:
    """What became of the workspace; None for a run that does not keep it."""
    if receiver is None:
        return None
    problem = receiver.problem
    if report.malformed:
        problem = "the sandbox sent a malformed report"
    elif not problem and report.archive_problem is None:
        problem = "the sandbox was ended before its workspace was read"
    elif not problem:
        problem = report.archive_problem or ""
    return WorkspaceReport(not problem, problem, tuple(report.workspace_refusals))
