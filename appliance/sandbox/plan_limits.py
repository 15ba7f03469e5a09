"""What the settings allow a run, by the plan of the user it is for."""

from msgspec import structs

from appliance.config.settings import PlanSettings, SandboxSettings
from appliance.domain.execution import MIB, Limits

_KIB = 1024


def in_force(
    settings: SandboxSettings, plans: dict[str, PlanSettings], plan: str
) -> SandboxSettings:
    """[sandbox] with what [plans.NAME] says in its place; as it is for a plan without such."""
    entry = plans.get(plan)
    if entry is None:
        return settings
    said = structs.asdict(entry.sandbox).items()
    return structs.replace(settings, **{name: value for name, value in said if value is not None})


def limits(given: SandboxSettings) -> Limits:
    """What one run may use."""
    return Limits(
        wall_s=given.wall_s,
        cpu_s=given.cpu_s,
        memory_bytes=given.memory_mib * MIB,
        processes=given.processes,
        workspace_bytes=given.workspace_mib * MIB,
        workspace_files=given.workspace_files,
        tmp_bytes=given.tmp_mib * MIB,
        output_kept_bytes=given.output_kept_kib * _KIB,
        output_killed_bytes=given.output_killed_kib * _KIB,
        artifact_bytes=given.artifact_mib * MIB,
        artifact_files=given.artifact_files,
        cpus=given.cpus,
    )
