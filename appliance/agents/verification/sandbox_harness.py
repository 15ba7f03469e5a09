"""Runs a candidate in the sandbox through the harness, and reads the report back."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from appliance.agents.verification import harness_programs
from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Limits,
    RunRequest,
    RunResult,
    SandboxFile,
)

OUTPUT_KEPT = 4000
_VALUE_KEPT = 20_000
_REPORT_BYTES = 8 * 1024 * 1024
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}

Files = Mapping[str, str]


class Runner(Protocol):
    """What is used of appliance.sandbox.SandboxRunner."""

    @property
    def status(self) -> BackendStatus: ...

    def limits(self) -> Limits: ...

    async def run(self, request: RunRequest) -> RunResult: ...


class Answered(Struct, frozen=True):
    """What one call did: the text of its value (None for None), what it printed, its error."""

    value: str | None
    printed: str = ""
    error: str = ""


class CallsReport(Struct, frozen=True):
    """`loaded` says whether the module could be imported; `results` may end early."""

    nonce: str
    loaded: bool = False
    error: str = ""
    results: tuple[Answered, ...] = ()


class TestsReport(Struct, frozen=True):
    """`results` are [test, outcome, problem]; what was collected and is missing did not end."""

    nonce: str
    collected: tuple[str, ...] = ()
    results: tuple[tuple[str, str, str], ...] = ()


class SyntaxReport(Struct, frozen=True):
    """`results` are [path, problem]; an empty problem means that the file can be read."""

    nonce: str
    results: tuple[tuple[str, str], ...] = ()


class Ran(Struct, frozen=True):
    """How a run ended, for people: the end of its output, isolation and time."""

    ended: str
    output: str
    isolation: str
    wall_s: float


Report = TypeVar("Report", CallsReport, TestsReport, SyntaxReport)


class Confined:
    """The agent's use of the sandbox. Every method raises SandboxUnavailable."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def calls(
        self, files: Files, main: str, calls: Sequence[tuple[Sequence[str], str]]
    ) -> tuple[CallsReport, Ran]:
        """Import the module `main` and evaluate each (setup, call) in it."""
        limits = self._runner.limits()
        each = min(3.0, max(0.2, 1.5 * _step_seconds(limits) / max(1, len(calls))))
        job = {
            "main": main,
            "calls": [(list(setup), call) for setup, call in calls],
            "seconds": round(each, 2),
            "load_seconds": _step_seconds(limits),
            "kept": _VALUE_KEPT,
        }
        return await self._report(CallsReport, harness_programs.CALLS, files, job, limits)

    async def tests(self, files: Files, tests: Sequence[str]) -> tuple[TestsReport, Ran]:
        """Run these test files with pytest."""
        limits = self._runner.limits()
        job = {"tests": list(tests), "seconds": _step_seconds(limits)}
        return await self._report(TestsReport, harness_programs.TESTS, files, job, limits)

    async def syntax(
        self, files: Files, languages: Sequence[tuple[str, str]]
    ) -> tuple[SyntaxReport, Ran]:
        """Read these (path, language) without running them: python, json, toml."""
        job = {"files": [list(pair) for pair in languages]}
        return await self._report(
            SyntaxReport, harness_programs.SYNTAX, files, job, self._runner.limits()
        )

    async def program(self, argv: Sequence[str], files: Files) -> tuple[RunResult, Ran]:
        """Run a program of the host's that the sandbox offers (node, sh)."""
        request = RunRequest(
            argv=tuple(argv), files=_as_files(files), env=_ENVIRONMENT, limits=self._runner.limits()
        )
        result = await self._runner.run(request)
        return result, _ran(result)

    async def script(
        self, argv: Sequence[str], path: str, files: Files, end: str
    ) -> tuple[bool, Ran]:
        """Run a test script; True if it exits with 0 and gets to its last line.

        `end` is a line of its language that writes the word {nonce} to the file {mark}.
        """
        mark, nonce = f"run-{secrets.token_hex(8)}", secrets.token_hex(8)
        line = end.replace("{mark}", mark).replace("{nonce}", nonce)
        request = RunRequest(
            argv=(*argv, path),
            files=_as_files({**files, path: f"{files[path].rstrip()}\n{line}\n"}),
            env=_ENVIRONMENT,
            limits=self._runner.limits(),
            artifacts=(mark,),
        )
        result = await self._runner.run(request)
        reached = (_artifact(result, mark) or b"").strip() == nonce.encode()
        return result.ok and reached, _ran(result)

    async def _report(
        self,
        kind: type[Report],
        program: str,
        files: Files,
        job: Mapping[str, Any],
        limits: Limits,
    ) -> tuple[Report, Ran]:
        """Run a harness program; a report that is missing or not ours reads as an empty one."""
        place, nonce = f"run-{secrets.token_hex(8)}", secrets.token_hex(16)
        report = f"{place}/{secrets.token_hex(8)}.json"
        request = RunRequest(
            argv=("python", f"{place}/run.py"),
            files=_as_files({**files, f"{place}/run.py": program}),
            stdin=json.dumps({**job, "report": report, "nonce": nonce}).encode(),
            env=_ENVIRONMENT,
            limits=replace(limits, artifact_bytes=_REPORT_BYTES),
            artifacts=(report,),
        )
        result = await self._runner.run(request)
        text = _artifact(result, report)
        if text is None and result.reason is EndReason.WALL_TIME:
            # The first report is written before the candidate runs: on a busy machine even
            # that can come too late, and is not the candidate's fault.
            result = await self._runner.run(request)
            text = _artifact(result, report)
        return _read(kind, text or b"", nonce), _ran(result)


def _step_seconds(limits: Limits) -> float:
    """How long one step may hang, so that time is left for the others before the run is ended."""
    return round(0.4 * min(limits.wall_s, limits.cpu_s), 2)


def _artifact(result: RunResult, path: str) -> bytes | None:
    return next((a.content for a in result.artifacts if a.path == path), None)


def _read(kind: type[Report], text: bytes, nonce: str) -> Report:
    try:
        report = msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return kind(nonce)
    return report if report.nonce == nonce else kind(nonce)


def _as_files(files: Files) -> tuple[SandboxFile, ...]:
    return tuple(SandboxFile(path, content.encode()) for path, content in files.items())


def _ran(result: RunResult) -> Ran:
    printed = b"\n".join(filter(None, (result.stdout.strip(), result.stderr.strip())))
    return Ran(
        ended=_ended(result),
        output=printed.decode(errors="replace")[-OUTPUT_KEPT:],
        isolation=str(result.isolation.level),
        wall_s=result.usage.wall_s,
    )


def _ended(result: RunResult) -> str:
    """Why the sandbox ended it, or "" where the program ended by itself without a signal."""
    reasons = {
        EndReason.WALL_TIME: "ran out of time",
        EndReason.CPU_TIME: "ran out of processor time",
        EndReason.MEMORY: "ran out of memory",
        EndReason.OUTPUT: "printed too much",
        EndReason.CANCELLED: "was cancelled",
    }
    if result.reason is EndReason.SIGNALLED:
        return f"was killed by signal {result.signal}"
    return reasons.get(result.reason, "")
