"""A finished run in a guest as the result that callers get, or as the error that it is."""

from collections.abc import Callable

from appliance.domain.execution import EndReason, Isolation, RunResult, RunUsage
from appliance.errors import ApplianceError, InvalidInput
from plugins._shared.guest.run import GuestRun
from plugins._shared.stage import init

_SIGKILL = 9
_LAST_SIGNAL = 64
_EVERYTHING = "everything: what came out of the sandbox was no list of files"

_REASONS = {
    init.EXITED: EndReason.EXITED,
    init.SIGNALLED: EndReason.SIGNALLED,
    init.CPU: EndReason.CPU_TIME,
    init.MEMORY: EndReason.MEMORY,
}


def result(
    run: GuestRun,
    isolation: Isolation,
    failure: Callable[[], ApplianceError],
    *,
    starved: bool = False,
    most_bytes: int = 0,
) -> RunResult:
    """What came of it, once `run.over`.

    `failure` makes the error for a guest that ended before the program was started,
    `starved` says that the kernel ended the guest for want of memory, `most_bytes` is what the
    whole guest had of it at most. What the stage could not tell of the program, since it was
    killed, is told of the guest. Raises what `failure` makes, or InvalidInput.
    """
    if not (run.report.started or run.killed or starved):
        raise InvalidInput.at("files", run.report.failure) if run.report.failure else failure()
    reason, number = _end(run, starved)
    return RunResult(
        reason=reason,
        exit_code=number & 0xFF if reason is EndReason.EXITED else None,
        signal=min(number, _LAST_SIGNAL) if reason is EndReason.SIGNALLED else None,
        stdout=run.out.value(),
        stderr=run.err.value(),
        output_truncated=run.out.truncated or run.err.truncated,
        usage=_usage(run, most_bytes),
        isolation=isolation,
        artifacts=() if run.broken else tuple(run.report.artifacts),
        artifacts_refused=_refused(run),
    )


def _end(run: GuestRun, starved: bool) -> tuple[EndReason, int]:
    if run.killed is not None:
        return run.killed, _SIGKILL
    if starved:
        return EndReason.MEMORY, _SIGKILL
    if run.report.ended is None:
        # Somebody killed it: the kernel for want of memory, or the program its own stage.
        return EndReason.SIGNALLED, _SIGKILL
    kind, number, _, _ = run.report.ended
    return _REASONS.get(kind, EndReason.SIGNALLED), number


def _usage(run: GuestRun, most_bytes: int) -> RunUsage:
    if run.report.ended is None:
        return RunUsage(run.wall_s, run.cpu_s, most_bytes)
    _, _, cpu_us, rss_kib = run.report.ended
    return RunUsage(run.wall_s, cpu_us / 1e6, rss_kib * 1024)


def _refused(run: GuestRun) -> tuple[str, ...]:
    if run.broken:
        return (_EVERYTHING,)
    late = ("the rest: collecting took too long",) if run.late else ()
    return (*run.report.refused, *late)
