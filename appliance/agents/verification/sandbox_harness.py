"""Runs candidates in the sandbox through the harness programs and decodes their reports.

A report counts only if it repeats the nonce of its job, which the candidate's code doesn't get.
"""

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
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

_MAX_OUTPUT_CHARACTERS = 4000
_MAX_VALUE_CHARACTERS = 20_000
_MAX_REPORT_BYTES = 8 * 1024 * 1024
_ENVIRONMENT = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "PYTHONIOENCODING": "utf-8"}

Files = Mapping[str, str]


class Runner(Protocol):
    """The sandbox, for all users (SandboxRunner) or with the limits of one (UserSandbox)."""

    @property
    def status(self) -> BackendStatus: ...

    def limits(self) -> Limits: ...

    async def run(self, request: RunRequest) -> RunResult: ...


class CallOutcome(Struct, frozen=True):
    """Outcome of one call: `repr` of its value (None for None), its output, its error."""

    value: str | None
    printed: str = ""
    error: str = ""


class CallsReport(Struct, frozen=True):
    """`loaded` says whether the module could be imported; `results` may end early."""

    nonce: str
    loaded: bool = False
    error: str = ""
    results: tuple[CallOutcome, ...] = ()


class TestsReport(Struct, frozen=True):
    """`results` are [test, outcome, problem]; collected tests without a result did not end."""

    nonce: str
    collected: tuple[str, ...] = ()
    results: tuple[tuple[str, str, str], ...] = ()


class SyntaxReport(Struct, frozen=True):
    """`results` are [path, problem]; the problem is empty if the syntax is valid."""

    nonce: str
    results: tuple[tuple[str, str], ...] = ()


class RunSummary(Struct, frozen=True):
    """A run for the report to the user. `end_reason` is "" if the program exited by itself."""

    end_reason: str
    output: str
    isolation: str
    wall_s: float


Report = TypeVar("Report", CallsReport, TestsReport, SyntaxReport)


class SandboxHarness:
    """Runs calls, tests and checks in the sandbox. Every method raises SandboxUnavailable."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run_calls(
        self, files: Files, main: str, calls: Sequence[tuple[Sequence[str], str]]
    ) -> tuple[CallsReport, RunSummary]:
        """Import the module `main` and evaluate each (setup, call) in it."""
        limits = self._runner.limits()
        seconds_per_call = min(3.0, max(0.2, 1.5 * _step_seconds(limits) / max(1, len(calls))))
        job = {
            "main": main,
            "calls": [(list(setup), call) for setup, call in calls],
            "seconds": round(seconds_per_call, 2),
            "load_seconds": _step_seconds(limits),
            "max_characters": _MAX_VALUE_CHARACTERS,
        }
        return await self._run_harness(CallsReport, harness_programs.CALLS, files, job, limits)

    async def run_tests(self, files: Files, tests: Sequence[str]) -> tuple[TestsReport, RunSummary]:
        """Run these test files with pytest."""
        limits = self._runner.limits()
        job = {"tests": list(tests), "seconds": _step_seconds(limits)}
        return await self._run_harness(TestsReport, harness_programs.TESTS, files, job, limits)

    @property
    def languages(self) -> Collection[str]:
        """The languages that the sandbox offers."""
        return self._runner.status.languages

    async def check_syntax(
        self, files: Files, languages: Sequence[tuple[str, str]]
    ) -> tuple[SyntaxReport, RunSummary]:
        """Parse these (path, language) without running them; python, json or toml."""
        job = {"files": [list(pair) for pair in languages]}
        return await self._run_harness(
            SyntaxReport, harness_programs.SYNTAX, files, job, self._runner.limits()
        )

    async def run_program(self, argv: Sequence[str], files: Files) -> tuple[RunResult, RunSummary]:
        """Run a program of the host, such as node or sh."""
        request = RunRequest(
            argv=tuple(argv),
            files=_sandbox_files(files),
            env=_ENVIRONMENT,
            limits=self._runner.limits(),
        )
        result = await self._runner.run(request)
        return result, _summarize(result)

    async def run_script(
        self, argv: Sequence[str], path: str, files: Files, end: str
    ) -> tuple[bool, RunSummary]:
        """Run a test script; True if it exits with 0 and reaches its last line.

        `end` is a line of its language that writes the word {nonce} to the file {mark}.
        """
        mark, nonce = f"run-{secrets.token_hex(8)}", secrets.token_hex(8)
        line = end.replace("{mark}", mark).replace("{nonce}", nonce)
        request = RunRequest(
            argv=(*argv, path),
            files=_sandbox_files({**files, path: f"{files[path].rstrip()}\n{line}\n"}),
            env=_ENVIRONMENT,
            limits=self._runner.limits(),
            artifacts=(mark,),
        )
        result = await self._runner.run(request)
        reached = (_artifact(result, mark) or b"").strip() == nonce.encode()
        return result.ok and reached, _summarize(result)

    async def _run_harness(
        self,
        kind: type[Report],
        program: str,
        files: Files,
        job: Mapping[str, Any],
        limits: Limits,
    ) -> tuple[Report, RunSummary]:
        """Run a harness program; a missing or forged report is decoded as an empty one."""
        folder, nonce = f"run-{secrets.token_hex(8)}", secrets.token_hex(16)
        report = f"{folder}/{secrets.token_hex(8)}.json"
        request = RunRequest(
            argv=("python", f"{folder}/run.py"),
            files=_sandbox_files({**files, f"{folder}/run.py": program}),
            stdin=json.dumps({**job, "report": report, "nonce": nonce}).encode(),
            env=_ENVIRONMENT,
            limits=replace(limits, artifact_bytes=_MAX_REPORT_BYTES),
            artifacts=(report,),
        )
        result = await self._runner.run(request)
        text = _artifact(result, report)
        if text is None and result.reason is EndReason.WALL_TIME:
            # The first report is written before the candidate's code runs. If even that is
            # missing, the machine was too busy: try once more.
            result = await self._runner.run(request)
            text = _artifact(result, report)
        return _decode_report(kind, text or b"", nonce), _summarize(result)


def _step_seconds(limits: Limits) -> float:
    """Time limit of one step, so that a step that hangs leaves time for the others."""
    return round(0.4 * min(limits.wall_s, limits.cpu_s), 2)


def _artifact(result: RunResult, path: str) -> bytes | None:
    return next((a.content for a in result.artifacts if a.path == path), None)


def _decode_report(kind: type[Report], text: bytes, nonce: str) -> Report:
    try:
        report = msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return kind(nonce)
    return report if report.nonce == nonce else kind(nonce)


def _sandbox_files(files: Files) -> tuple[SandboxFile, ...]:
    return tuple(SandboxFile(path, content.encode()) for path, content in files.items())


def _summarize(result: RunResult) -> RunSummary:
    printed = b"\n".join(filter(None, (result.stdout.strip(), result.stderr.strip())))
    return RunSummary(
        end_reason=_end_reason(result),
        output=printed.decode(errors="replace")[-_MAX_OUTPUT_CHARACTERS:],
        isolation=str(result.isolation.level),
        wall_s=result.usage.wall_s,
    )


def _end_reason(result: RunResult) -> str:
    """Why the sandbox ended the program, or "" if it exited by itself."""
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
