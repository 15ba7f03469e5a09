"""Converts a finished run to its result, or to an error if the program never started."""

from appliance.domain.execution import (
    BuildStep,
    EndReason,
    Isolation,
    RunResult,
    RunUsage,
)
from appliance.errors import ApplianceError, InvalidInput, SandboxUnavailable
from plugins._shared.stage.report import (
    COLLECTION_TIMED_OUT,
    END_REASONS,
    LAST_SIGNAL,
    REPORT_MALFORMED,
    add_build_report,
)
from plugins.sandboxes.bubblewrap import diagnosis
from plugins.sandboxes.bubblewrap.runs.run import Run

_SIGKILL = 9


def build_result(run: Run, isolation: Isolation, build: BuildStep | None = None) -> RunResult:
    """The result of a run whose request has this build step.

    Raises InvalidInput or SandboxUnavailable if the program never started.
    """
    if run.tree.lost_reason and run.report.exit is None and run.kill_reason is None:
        raise SandboxUnavailable(run.tree.lost_reason)
    if not (run.report.started or run.kill_reason or run.tree.oom_killed):
        raise _startup_error(run)
    reason, number = _end_reason(run)
    result = RunResult(
        reason=reason,
        exit_code=number & 0xFF if reason is EndReason.EXITED else None,
        signal=min(number, LAST_SIGNAL) if reason is EndReason.SIGNALLED else None,
        stdout=run.out.value(),
        stderr=run.err.value(),
        output_truncated=run.out.truncated or run.err.truncated,
        usage=_usage(run),
        isolation=isolation,
        artifacts=() if run.report.malformed else tuple(run.report.artifacts),
        artifacts_refused=_refused_artifacts(run),
        workspace=run.workspace,
    )
    return add_build_report(result, build, run.report.build, run.build_wall_s)


def _startup_error(run: Run) -> ApplianceError:
    if run.report.failure:
        return InvalidInput.at("files", run.report.failure)
    log = run.log.value().decode(errors="replace")
    return SandboxUnavailable.with_remedy(*diagnosis.diagnose(log))


def _end_reason(run: Run) -> tuple[EndReason, int]:
    if run.kill_reason is not None:
        return run.kill_reason, _SIGKILL
    if run.tree.oom_killed:
        return EndReason.MEMORY, _SIGKILL
    if run.report.exit is None:
        # Killed from outside the sandbox, most likely by the kernel when memory ran out.
        return EndReason.SIGNALLED, _SIGKILL
    kind, number, _, _ = run.report.exit
    return END_REASONS.get(kind, EndReason.SIGNALLED), number


def _usage(run: Run) -> RunUsage:
    """The init process's numbers for a program that ended by itself, else the launcher's.

    The larger ones count if the run was killed just as the program ended.
    """
    cpu_s, max_rss_bytes = 0.0, 0
    if run.report.exit is not None:
        _, _, cpu_us, rss_kib = run.report.exit
        cpu_s, max_rss_bytes = cpu_us / 1e6, rss_kib * 1024
    ended_by_itself = run.report.exit is not None and not (run.kill_reason or run.tree.oom_killed)
    if (usage := run.tree.usage) is not None and not ended_by_itself:
        built_s = run.report.build.cpu_us / 1e6 if run.report.build is not None else 0.0
        cpu_s = max(cpu_s, usage.cpu_s - built_s)
        max_rss_bytes = max(max_rss_bytes, usage.max_rss_bytes)
    return RunUsage(run.wall_s, cpu_s, max_rss_bytes)


def _refused_artifacts(run: Run) -> tuple[str, ...]:
    if run.report.malformed:
        return (REPORT_MALFORMED,)
    if run.collecting_timed_out:
        return (*run.report.refusals, COLLECTION_TIMED_OUT)
    return tuple(run.report.refusals)
