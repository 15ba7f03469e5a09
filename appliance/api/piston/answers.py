"""Converts results of runs to Piston's answers: pure functions."""

import signal

from appliance.api.piston.convert import piston_name
from appliance.api.piston.schemas import ExecuteAnswer, StageAnswer
from appliance.domain.execution import BuildReport, EndReason, RunResult
from appliance.services.sandbox.programs import ProgramResult

_MS = 1000

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
    build = result.run.build
    if build is None:
        return ExecuteAnswer(language, version, _run_stage(result.run, output))
    compiled = _compile_stage(build)
    run = _run_stage(result.run, output) if build.ok else compiled
    return ExecuteAnswer(language, version, run, compiled)


def _run_stage(run: RunResult, output: bytes) -> StageAnswer:
    status, message = _status_and_message(run)
    stdout, stderr = run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=_combine_output(run, output),
        code=run.exit_code,
        signal=_signal(run),
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


def _status_and_message(end: RunResult | BuildReport) -> tuple[str | None, str | None]:
    """Piston's status and a message; None and None for success."""
    if end.ok:
        return None, None
    if end.reason is EndReason.EXITED:
        return "RE", f"exited with the status {end.exit_code}"
    if end.reason is EndReason.SIGNALLED:
        return "SG", f"ended by the signal {_signal_name(end.signal or 0)}"
    return _STATUS[end.reason]


def _signal(end: RunResult | BuildReport) -> str | None:
    """The signal that ended it; the sandbox itself kills by SIGKILL."""
    return None if end.exit_code is not None else _signal_name(end.signal or signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _compile_stage(build: BuildReport) -> StageAnswer:
    stdout, stderr = build.stdout.decode(errors="replace"), build.stderr.decode(errors="replace")
    status, message = _status_and_message(build)
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=stdout + stderr,
        code=build.exit_code,
        signal=_signal(build),
        message=message,
        status=status,
        cpu_time=round(build.usage.cpu_s * _MS),
        wall_time=round(build.usage.wall_s * _MS),
        memory=build.usage.max_rss_bytes,
    )
