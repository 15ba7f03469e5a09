"""Converts results of runs to Piston's answers: pure functions."""

import signal

from msgspec import structs

from appliance.api.piston.convert import piston_name
from appliance.api.piston.schemas import ExecuteAnswer, StageAnswer
from appliance.domain.execution import EndReason, RunResult
from appliance.services.sandbox.programs import BuildReport, ProgramResult

_MS = 1000
_FIGURES = ("cpu_time", "wall_time", "memory")

_STATUS = {
    EndReason.WALL_TIME: ("TO", "the time limit was reached"),
    EndReason.CPU_TIME: ("TO", "the CPU time limit was reached"),
    EndReason.MEMORY: ("RE", "the memory limit was reached"),
    EndReason.OUTPUT: ("OL", "the output limit was reached"),
    EndReason.CANCELLED: ("XX", "the run was cancelled"),
}


def execute_answer(result: ProgramResult, output: bytes) -> ExecuteAnswer:
    """`output` is stdout and stderr in order of arrival.

    A failed compilation is shown as both stages, as Piston does.
    """
    name = result.language or ""
    language, version = piston_name(name), result.version or ""
    run, build = _run_stage(result.run, output), result.build
    if build is None:
        return ExecuteAnswer(language, version, run)
    compiled = _compile_stage(build)
    if build.ok:
        return ExecuteAnswer(language, version, run, compiled)
    # Only the compiler ran, so the figures of the run are those of the compilation.
    figures = {name: getattr(run, name) for name in _FIGURES}
    compiled = structs.replace(compiled, **figures)
    return ExecuteAnswer(language, version, compiled, compiled)


def _run_stage(run: RunResult, output: bytes) -> StageAnswer:
    status, message = status_and_message(run)
    killed = status is not None and run.exit_code is None
    stdout, stderr = run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=_combine_output(run, output),
        code=run.exit_code,
        signal=_signal_name(run.signal or signal.SIGKILL) if killed else None,
        message=message,
        status=status,
        cpu_time=round(run.usage.cpu_s * _MS),
        wall_time=round(run.usage.wall_s * _MS),
        memory=run.usage.max_rss_bytes,
    )


def _combine_output(run: RunResult, output: bytes) -> str:
    """Both streams in order of arrival; one after the other if output was truncated."""
    kept = run.stdout + run.stderr
    return (output if len(output) == len(kept) else kept).decode(errors="replace")


def status_and_message(run: RunResult) -> tuple[str | None, str | None]:
    """Piston's status and a message; None and None for success."""
    if run.ok:
        return None, None
    if run.reason is EndReason.EXITED:
        return "RE", f"exited with the status {run.exit_code}"
    if run.reason is EndReason.SIGNALLED:
        return "SG", f"ended by the signal {_signal_name(run.signal or 0)}"
    return _STATUS[run.reason]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _compile_stage(build: BuildReport) -> StageAnswer:
    """Without figures, which are measured for the whole sandbox only."""
    stdout, stderr = build.stdout.decode(errors="replace"), build.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=stdout + stderr,
        code=build.exit_code,
        signal=None,
        message=None if build.ok else f"exited with the status {build.exit_code}",
        status=None if build.ok else "RE",
    )
