"""Version selectors as Piston's clients write them."""

import pytest

from appliance.api.piston.versions import matches
from appliance.errors import InvalidInput


@pytest.mark.parametrize(
    ("selector", "version", "meant"),
    [
        ("*", "dash", True),
        ("x", "1.2.3", True),
        ("dash", "dash", True),
        ("3.11.7", "3.11.7", True),
        ("3.11", "3.11.7", True),
        ("3.1", "3.11.7", False),
        ("3.x", "3.11.7", True),
        ("3.X", "3.11.7", True),
        ("3.x.x", "4.0.0", False),
        ("*.*", "3.11.7", True),
        ("^3.2", "3.11.7", True),
        ("^3.12", "3.11.7", False),
        ("~3", "3.11.7", True),
        ("~2", "3.11.7", False),
        ("~3.11.2", "3.11.7", True),
        ("~3.10", "3.11.7", False),
        (">=3", "12.2.0", True),
        (">= 3", "12.2.0", True),
        ("<3", "3.11.7", False),
        (">3", "3.11.7", False),
        ("v20", "20.20.2", True),
        ("1", "dash", False),
        (">=3 <4", "3.11.7", True),
        (">=3 <3.11", "3.11.7", False),
        ("2.x || 3.x", "3.11.7", True),
        ("1 || 2", "3.11.7", False),
        ("3.0.0 - 3.99.0", "3.11.7", True),
        ("1.0 - 2", "3.11.7", False),
        ("999999999", "3.11.7", False),
    ],
)
def test_selector_when_held_against_a_version_then_as_its_sign_says(
    selector: str, version: str, meant: bool
) -> None:
    assert matches(selector, version) is meant


@pytest.mark.parametrize(
    "selector",
    ["", "newest", "3..1", "1.2.3.4", "3; rm", "9" * 60, "9" * 10_000, "3x", "||", "3 ||", "1 - ",
     "1 " * 60, "\u0663"],
)  # fmt: skip
def test_selector_when_malformed_then_rejected(selector: str) -> None:
    with pytest.raises(InvalidInput, match="is not a version"):
        matches(selector, "3.11.7")
