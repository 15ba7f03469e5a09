"""Versions in the order of PEP 440."""

import random

import pytest

from appliance.models.sources.wheel_versions import is_pre_release, version_key

ORDERED = [
    "0.1", "1.dev1", "1.0a1.dev1", "1.0a1", "1.0b2", "1.0rc1", "1.0", "1.0.post1.dev1",
    "1.0.post1", "1.0.1", "1.9", "1.10", "2024.1", "1!0.1",
]  # fmt: skip


def test_version_key_when_sorted_then_in_the_order_of_the_standard() -> None:
    shuffled = random.Random(1).sample(ORDERED, len(ORDERED))
    assert sorted(shuffled, key=lambda version: version_key(version) or ()) == ORDERED


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1"), ("v1.2", "1.2.0"), ("1.0RC1", "1.0c1"), ("1.0+cpu", "1.0")]
)
def test_version_key_when_written_differently_then_is_the_same(one: str, other: str) -> None:
    assert version_key(one) == version_key(other)


@pytest.mark.parametrize("text", ["", "x", "1..2", "1.0-", "latest", "9" * 200])
def test_version_key_when_it_is_no_version_then_is_none(text: str) -> None:
    assert version_key(text) is None


def test_is_pre_release_when_asked_then_knows_the_kinds() -> None:
    assert [is_pre_release(v) for v in ("1.0a1", "1.dev0", "1.0.post1", "1.0")] == [
        True,
        True,
        False,
        False,
    ]
