"""The table of the sandbox limits agrees with the types that have a field per limit."""

import pytest
from msgspec import structs

from appliance.api.monkey.sandbox_schemas import LimitsBody
from appliance.config.settings import PlanSandboxSettings, SandboxSettings
from appliance.domain.execution import Limits
from appliance.domain.sandbox_limits import LIMIT_BY_FIELD, SANDBOX_LIMITS, SandboxLimit
from appliance.errors import InvalidInput
from appliance.sandbox.plan_limits import limits_from_settings

FIELDS = [limit.field for limit in SANDBOX_LIMITS]
SETTINGS = [limit.setting for limit in SANDBOX_LIMITS]


@pytest.mark.parametrize("type_", [Limits, LimitsBody])
def test_table_when_a_type_has_a_field_per_limit_then_the_names_are_the_same(type_: type) -> None:
    assert [field.name for field in structs.fields(type_)] == FIELDS


@pytest.mark.parametrize("type_", [SandboxSettings, PlanSandboxSettings])
def test_table_when_a_type_has_a_setting_per_limit_then_names_and_order_are_the_same(
    type_: type,
) -> None:
    names = [field.name for field in structs.fields(type_)]
    assert [name for name in names if name in SETTINGS] == SETTINGS


def test_table_when_nothing_is_set_then_settings_and_limits_have_the_same_defaults() -> None:
    assert limits_from_settings(SandboxSettings()) == Limits()


@pytest.mark.parametrize("limit", SANDBOX_LIMITS, ids=FIELDS)
def test_table_when_a_default_is_requested_then_it_is_in_range(limit: SandboxLimit) -> None:
    default = limit.default * limit.factor
    assert type(default) is type(getattr(Limits(), limit.field))
    limit.check(limit.field, default, default)


@pytest.mark.parametrize("value", [99, 0.05, float("nan"), 10**400])
def test_check_when_a_value_is_out_of_range_then_the_error_names_field_and_range(
    value: float,
) -> None:
    with pytest.raises(InvalidInput, match=r"limits\.cpu_s: .* is out of range \(0\.1 to 10\)"):
        LIMIT_BY_FIELD["cpu_s"].check("limits.cpu_s", value, 10.0)


def test_check_when_the_value_is_in_another_unit_then_so_is_the_range() -> None:
    LIMIT_BY_FIELD["wall_s"].check("run_timeout", 3000, 10.0, 1000)
    with pytest.raises(InvalidInput, match=r"run_timeout: 99 is out of range \(100 to 10000\)"):
        LIMIT_BY_FIELD["wall_s"].check("run_timeout", 99, 10.0, 1000)
