"""Selection of wheels by version, as PEP 440 orders and matches them."""

import pytest
from packaging.version import Version

from appliance.models.sources.package_index import Wheel, select_wheels


def wheel(version: str, *, yanked: bool = False, filename: str = "") -> Wheel:
    filename = filename or f"tiny-{version}-py3-none-any.whl"
    return Wheel(Version(version), filename, f"https://index/{filename}", yanked=yanked)


def selected(version: str | None, *versions: str) -> list[str]:
    return [str(each.version) for each in select_wheels([wheel(v) for v in versions], version)]


def test_select_when_no_version_is_given_then_final_releases_newest_first() -> None:
    versions = ("1.9", "2.0rc1", "1.10", "1.10.dev3", "1!0.1", "1.9.post1", "2024.1a1")
    assert selected(None, *versions) == ["1!0.1", "1.10", "1.9.post1", "1.9"]


def test_select_when_there_are_pre_releases_only_then_the_newest_of_them() -> None:
    assert selected(None, "1.0a1", "1.0rc1", "1.0.dev1") == ["1.0rc1", "1.0a1", "1.0.dev1"]


def test_select_when_a_release_is_yanked_then_only_if_its_version_is_requested() -> None:
    wheels = [wheel("1.0"), wheel("2.0", yanked=True)]
    assert [str(each.version) for each in select_wheels(wheels, None)] == ["1.0"]
    assert [str(each.version) for each in select_wheels(wheels, "2.0")] == ["2.0"]


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ("1.0", ["1.0+cpu", "1.0"]),
        ("v1.0.0", ["1.0+cpu", "1.0"]),
        ("1.0+cpu", ["1.0+cpu"]),
        ("1.0RC1", ["1.0rc1"]),
        ("1.0c1", ["1.0rc1"]),
        ("3", []),
        ("latest", []),
        ("1.0-", []),
        ("9" * 5000, []),
    ],
)
def test_select_when_a_version_is_requested_then_the_equal_ones(
    requested: str, expected: list[str]
) -> None:
    assert selected(requested, "1.0", "1.0rc1", "1.0+cpu", "1.1") == expected


def test_select_when_a_version_is_on_two_indexes_then_the_first() -> None:
    wheels = [wheel("1.0", filename="first.whl"), wheel("1.0.0", filename="second.whl")]
    assert [each.filename for each in select_wheels(wheels, None)] == ["first.whl"]
