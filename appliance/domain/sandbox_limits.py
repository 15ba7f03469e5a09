"""The limits of a sandbox run: names, units, ranges and defaults, in one table.

The table gives the default and the range of the settings in [sandbox] and [plans.NAME], the
conversion of settings to `execution.Limits`, and the range that an API checks in a request. To add
a limit, add a line here and, since msgspec needs a typed field for each,

- the field of `execution.Limits`
- the settings of `SandboxSettings` and `PlanSandboxSettings` (appliance.config.settings)
- the field of `LimitsBody` (appliance.api.monkey.sandbox_schemas), under the same name as in
  `execution.Limits`
- its line in config.example.toml.

tests/sandbox/test_limits_table.py fails if one of them is missing. A dialect that has other names
or units for a limit (Piston: `run_timeout` in ms) converts them itself.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Meta, Struct

from appliance.errors import InvalidInput

_KIB, _MIB = 1024, 1024 * 1024


class SandboxLimit(Struct, frozen=True):
    """One limit. Fields of `Limits` are in seconds, bytes, counts or processors.

    `field` is the name in `execution.Limits` and in requests, `setting` the name of the setting,
    whose unit is `factor` units of the field. `default` and `setting_range` are in the unit of the
    setting. A request may set the limit from `minimum`, in the unit of the field, up to the value
    of the setting.
    """

    field: str
    setting: str
    factor: int
    default: float
    setting_range: Meta
    minimum: float

    def check(self, path: str, value: float, maximum: float, units: int = 1) -> None:
        """Raise InvalidInput naming `path` if the requested value is out of range.

        `value` is in 1/`units` of the field's unit, `maximum` in the field's unit.
        """
        lowest, highest = self.minimum * units, maximum * units
        # Written so that NaN fails, too.
        if not lowest <= value <= highest:
            raise InvalidInput.at(
                path, f"{_format(value)} is out of range ({_format(lowest)} to {_format(highest)})"
            )


_ABOVE_0, _FROM_1, _FROM_16, _FROM_32 = Meta(gt=0), Meta(ge=1), Meta(ge=16), Meta(ge=32)

SANDBOX_LIMITS = (
    # field, setting, factor, default, range of the setting, minimum of a request
    SandboxLimit("wall_s", "wall_s", 1, 10.0, _ABOVE_0, 0.1),
    SandboxLimit("cpu_s", "cpu_s", 1, 10.0, _ABOVE_0, 0.1),
    SandboxLimit("memory_bytes", "memory_mib", _MIB, 256, _FROM_32, 16 * _MIB),
    SandboxLimit("processes", "processes", 1, 64, _FROM_1, 1),
    SandboxLimit("workspace_bytes", "workspace_mib", _MIB, 64, _FROM_1, 4096),
    SandboxLimit("workspace_files", "workspace_files", 1, 4096, _FROM_16, 16),
    SandboxLimit("tmp_bytes", "tmp_mib", _MIB, 32, _FROM_1, 4096),
    SandboxLimit("output_kept_bytes", "output_kept_kib", _KIB, 1024, _FROM_1, 0),
    SandboxLimit("output_killed_bytes", "output_killed_kib", _KIB, 16384, _FROM_1, 1),
    SandboxLimit("artifact_bytes", "artifact_mib", _MIB, 16, _FROM_1, 0),
    SandboxLimit("artifact_files", "artifact_files", 1, 256, _FROM_1, 0),
    SandboxLimit("cpus", "cpus", 1, 1.0, _ABOVE_0, 0.01),
)
LIMIT_BY_FIELD: Mapping[str, SandboxLimit] = {limit.field: limit for limit in SANDBOX_LIMITS}
_LIMIT_BY_SETTING = {limit.setting: limit for limit in SANDBOX_LIMITS}


def setting_range(setting: str) -> Meta:
    """The range of a setting, for the annotation of its field."""
    return _LIMIT_BY_SETTING[setting].setting_range


def setting_default(setting: str) -> Any:
    """The default of a setting, an int or a float as its field is."""
    return _LIMIT_BY_SETTING[setting].default


def field_default(field: str) -> Any:
    """The default of a field of `execution.Limits`."""
    limit = LIMIT_BY_FIELD[field]
    return limit.default * limit.factor


def _format(value: float) -> str:
    try:
        return f"{value:.10g}"
    except OverflowError:
        return "a number with hundreds of digits"
