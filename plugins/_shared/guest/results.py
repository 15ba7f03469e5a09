"""The result of a finished run in a guest, or the error that it is."""

from collections.abc import Callable

from appliance.domain.execution import EndReason, Isolation, RunResult, RunUsage
from appliance.errors import ApplianceError, InvalidInput
from plugins._shared.guest.run import GuestRun
from plugins._shared.stage.report import (
    COLLECTION_TIMED_OUT,
    END_REASONS,
    LAST_SIGNAL,
    REPORT_MALFORMED,
    add_build_report,
)

_SIGKILL = 9


def build_result(
    run: GuestRun,
    isolation: Isolation,
    failure: Callable[[], ApplianceError],
    *,
    out_of_memory: bool = False,
    max_memory_bytes: int = 0,
) -> RunResult:
    """Call it once `run.finished` is set.

    `failure` makes the error for a guest that ended before the program started. `out_of_memory`
    says that the kernel killed the guest for lack of memory. `max_memory_bytes` is the peak memory
    of the whole guest; it and `run.cpu_s` are the usage of a program that was killed, of which the
    init process reports none. Raises what `failure` makes, or InvalidInput.
    """
    if not (run.report.started or run.kill_reason or out_of_memory):
        raise InvalidInput.at("files", run.report.failure) if run.report.failure else failure()
    reason, number = _end_reason(run, out_of_memory)
    result = RunResult(
        reason=reason,
        exit_code=number & 0xFF if reason is EndReason.EXITED else None,
        signal=min(number, LAST_SIGNAL) if reason is EndReason.SIGNALLED else None,
        stdout=run.stdout.value(),
        stderr=run.stderr.value(),
        output_truncated=run.stdout.truncated or run.stderr.truncated,
        usage=_usage(run, max_memory_bytes),
        isolation=isolation,
        artifacts=() if run.malformed else tuple(run.report.artifacts),
        artifacts_refused=_refusals(run),
        workspace=run.workspace,
    )
    return add_build_report(result, run.build_step, run.report.build, run.build_wall_s)


def _end_reason(run: GuestRun, out_of_memory: bool) -> tuple[EndReason, int]:
    """The reason, and the exit code or signal."""
    if run.kill_reason is not None:
        return run.kill_reason, _SIGKILL
    if out_of_memory:
        return EndReason.MEMORY, _SIGKILL
    if run.report.exit is None:
        # Killed without a report: by the kernel, or the program killed its own init process.
        return EndReason.SIGNALLED, _SIGKILL
    kind, number, _, _ = run.report.exit
    return END_REASONS.get(kind, EndReason.SIGNALLED), number


def _usage(run: GuestRun, max_memory_bytes: int) -> RunUsage:
    if run.report.exit is None:
        return RunUsage(run.wall_s, run.cpu_s, max_memory_bytes)
    _, _, cpu_us, rss_kib = run.report.exit
    return RunUsage(run.wall_s, cpu_us / 1e6, rss_kib * 1024)


def _refusals(run: GuestRun) -> tuple[str, ...]:
    if run.malformed:
        return (REPORT_MALFORMED,)
    timeout = (COLLECTION_TIMED_OUT,) if run.collection_timed_out else ()
    return (*run.report.refusals, *timeout)
