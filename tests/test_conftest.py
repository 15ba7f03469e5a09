"""Skips for want of a feature that MONKEY_CODER_TEST_REQUIRE names are failures."""

import pytest

pytest_plugins = ["pytester"]

CONFTEST = "from tests.conftest import pytest_runtest_makereport as pytest_runtest_makereport"
CALL = """
import pytest
def test_it(): pytest.skip({reason!r})
"""
FIXTURE = """
import pytest
@pytest.fixture
def missing(): pytest.skip({reason!r})
def test_it(missing): pass
"""
MARK = """
import pytest
@pytest.mark.skipif(True, reason={reason!r})
def test_it(): pass
"""
MODULE_MARK = """
import pytest
pytestmark = [pytest.mark.skipif(True, reason={reason!r})]
def test_it(): pass
"""
# Pytest counts a failure during set-up, as of a mark or a fixture, as an error.
FAILED = ({"failed": 1}, {"errors": 1})


@pytest.mark.parametrize(
    ("reason", "required"),
    [
        ("needs gvisor: there is no runsc", "gvisor"),
        ("needs microvm: there is no QEMU", "microvm"),
        ("needs java: not on this machine", None),
        ("only gvisor counts the time here", None),
    ],
)
@pytest.mark.parametrize("code", [CALL, FIXTURE, MARK, MODULE_MARK])
def test_skip_when_its_feature_is_required_then_it_counts_as_a_failure(
    code: str,
    reason: str,
    required: str | None,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.conftest.REQUIRED", frozenset({"gvisor", "microvm"}))
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(code.format(reason=reason))
    result = pytester.runpytest_inprocess("-p", "no:xdist", "-p", "no:asyncio", "-rfE")
    if required is None:
        result.assert_outcomes(skipped=1)
        return
    assert result.parseoutcomes() in FAILED
    assert f"MONKEY_CODER_TEST_REQUIRE names {required}. " in str(result.stdout)
