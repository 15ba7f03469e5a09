"""The limits of a run from the settings, by the plan of its user."""

from msgspec import structs

from appliance.config.settings import PlanSettings, SandboxSettings
from appliance.domain.execution import Limits
from appliance.domain.sandbox_limits import SANDBOX_LIMITS


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
    values = {
        limit.field: getattr(settings, limit.setting) * limit.factor for limit in SANDBOX_LIMITS
    }
    return Limits(**values)
