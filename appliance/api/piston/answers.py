"""What became of a run, in Piston's words: pure functions."""

import signal

from msgspec import structs

from appliance.api.piston.convert import shown_name
from appliance.api.piston.schemas import ExecuteAnswer, StageAnswer
from appliance.domain.execution import EndReason, RunResult
from appliance.services.sandbox.programs import BuildReport, ProgramResult

_MS = 1000
_FIGURES = ("cpu_time", "wall_time", "memory")

_STATUS = {
    EndReason.WALL_TIME: ("TO", "the time limit was reached"),
    EndReason.CPU_TIME: ("TO", "the limit of processor time was reached"),
    EndReason.MEMORY: ("RE", "the memory limit was reached"),
    EndReason.OUTPUT: ("OL", "the output is longer than the limit"),
    EndReason.CANCELLED: ("XX", "the run was cancelled"),
}


def answer(result: ProgramResult, said: bytes) -> ExecuteAnswer:
    """`said` is what the run wrote to stdout and stderr, as it came.

    A compiler that failed is shown in both places, as Piston does.
    """
    name = result.language or ""
    shown, version = shown_name(name), result.version or ""
    run, build = _run_stage(result.run, said), result.build
    if build is None:
        return ExecuteAnswer(shown, version, run)
    compiled = _compile_stage(build)
    if build.ok:
        return ExecuteAnswer(shown, version, run, compiled)
    # The compiler was all that ran, so that the run's figures are its own.
    figures = {name: getattr(run, name) for name in _FIGURES}
    compiled = structs.replace(compiled, **figures)
    return ExecuteAnswer(shown, version, compiled, compiled)


def _run_stage(run: RunResult, said: bytes) -> StageAnswer:
    status, message = verdict(run)
    killed = status is not None and run.exit_code is None
    stdout, stderr = run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=_output(run, said),
        code=run.exit_code,
        signal=_signal_name(run.signal or signal.SIGKILL) if killed else None,
        message=message,
        status=status,
        cpu_time=round(run.usage.cpu_s * _MS),
        wall_time=round(run.usage.wall_s * _MS),
        memory=run.usage.max_rss_bytes,
    )


def _output(run: RunResult, said: bytes) -> str:
    """Both streams as they came, or one after the other where some of it was left out."""
    kept = run.stdout + run.stderr
    return (said if len(said) == len(kept) else kept).decode(errors="replace")


def verdict(run: RunResult) -> tuple[str | None, str | None]:
    """Piston's status and a message; None and None where nothing went wrong."""
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
    """What the stage used is not told apart from the run that it shares a sandbox with."""
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
