"""The limits of a run from the settings, by the plan of its user."""

from msgspec import structs

from appliance.config.settings import PlanSettings, SandboxSettings
from appliance.domain.execution import MIB, Limits

_KIB = 1024


def apply_plan(
    settings: SandboxSettings, plans: dict[str, PlanSettings], plan: str
) -> SandboxSettings:
    """[sandbox], with the values of [plans.NAME] in place of its own."""
    entry = plans.get(plan)
    if entry is None:
        return settings
    overrides = structs.asdict(entry.sandbox).items()
    return structs.replace(
        settings, **{name: value for name, value in overrides if value is not None}
    )


def limits_from_settings(settings: SandboxSettings) -> Limits:
    """The limits of one run."""
    return Limits(
        wall_s=settings.wall_s,
        cpu_s=settings.cpu_s,
        memory_bytes=settings.memory_mib * MIB,
        processes=settings.processes,
        workspace_bytes=settings.workspace_mib * MIB,
        workspace_files=settings.workspace_files,
        tmp_bytes=settings.tmp_mib * MIB,
        output_kept_bytes=settings.output_kept_kib * _KIB,
        output_killed_bytes=settings.output_killed_kib * _KIB,
        artifact_bytes=settings.artifact_mib * MIB,
        artifact_files=settings.artifact_files,
        cpus=settings.cpus,
    )
