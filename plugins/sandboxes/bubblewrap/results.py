"""A finished run as the result that callers get, or as the error that it is."""

from appliance.domain.execution import EndReason, Isolation, RunResult, RunUsage
from appliance.errors import ApplianceError, InvalidInput, SandboxUnavailable
from plugins._shared.stage import init
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.bubblewrap import diagnosis
from plugins.sandboxes.bubblewrap.runs.run import Run

_SIGKILL = 9
_LAST_SIGNAL = 64

_REASONS = {
    init.EXITED: EndReason.EXITED,
    init.SIGNALLED: EndReason.SIGNALLED,
    init.CPU: EndReason.CPU_TIME,
    init.MEMORY: EndReason.MEMORY,
}


def result(run: Run, isolation: Isolation) -> RunResult:
    """Raises InvalidInput or SandboxUnavailable if the program was never started."""
    if run.tree.lost and run.report.ended is None and run.killed is None:
        raise SandboxUnavailable(run.tree.lost)
    if not (run.report.started or run.killed or run.tree.starved):
        raise _failure(run)
    reason, number = _end(run)
    return RunResult(
        reason=reason,
        exit_code=number & 0xFF if reason is EndReason.EXITED else None,
        signal=min(number, _LAST_SIGNAL) if reason is EndReason.SIGNALLED else None,
        stdout=run.out.value(),
        stderr=run.err.value(),
        output_truncated=run.out.truncated or run.err.truncated,
        usage=_usage(run),
        isolation=isolation,
        artifacts=() if run.report.broken else tuple(run.report.artifacts),
        artifacts_refused=_refused(run),
    )


def _failure(run: Run) -> ApplianceError:
    if run.report.failure:
        return InvalidInput.at("files", run.report.failure)
    log = run.log.value().decode(errors="replace")
    return unavailable(*diagnosis.diagnose(log))


def _end(run: Run) -> tuple[EndReason, int]:
    if run.killed is not None:
        return run.killed, _SIGKILL
    if run.tree.starved:
        return EndReason.MEMORY, _SIGKILL
    if run.report.ended is None:
        # Somebody outside killed it, most likely the kernel for want of memory.
        return EndReason.SIGNALLED, _SIGKILL
    kind, number, _, _ = run.report.ended
    return _REASONS.get(kind, EndReason.SIGNALLED), number


def _usage(run: Run) -> RunUsage:
    """What the stage saw of a program that ended; of one that was killed, what is known outside.

    Both, where it was killed just as it ended: the one that knows of more knows better.
    """
    cpu_s, most_bytes = 0.0, 0
    if run.report.ended is not None:
        _, _, cpu_us, rss_kib = run.report.ended
        cpu_s, most_bytes = cpu_us / 1e6, rss_kib * 1024
    by_itself = run.report.ended is not None and not (run.killed or run.tree.starved)
    if (whole := run.tree.usage) is not None and not by_itself:
        cpu_s, most_bytes = max(cpu_s, whole.cpu_s), max(most_bytes, whole.max_rss_bytes)
    return RunUsage(run.wall_s, cpu_s, most_bytes)


def _refused(run: Run) -> tuple[str, ...]:
    if run.report.broken:
        return ("everything: what came out of the sandbox was no list of files",)
    late = ("the rest: collecting took too long",) if run.late else ()
    return (*run.report.refused, *late)
