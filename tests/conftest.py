"""Fixtures shared by every test, and skips that count as failures where CI requires it."""

import os
import re
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.starter_model import fetch_starter_model

REQUIRED = frozenset(filter(None, os.environ.get("MONKEY_CODER_TEST_REQUIRE", "").split(",")))
"""Of sandbox, gvisor, microvm, node, browser: what this machine must be able to test."""
_FEATURE = re.compile(r"needs (\w+): ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip with the reason "needs FEATURE: ..." into a failure if FEATURE is required."""
    report = yield
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        feature = _FEATURE.search(reason)
        if feature and feature[1] in REQUIRED:
            report.outcome = "failed"
            report.longrepr = f"MONKEY_CODER_TEST_REQUIRE names {feature[1]}. {reason}"
    return report


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """SmolLM2-135M-Instruct Q4_1: the real, small model that every machine can run."""
    given = os.environ.get("MONKEY_CODER_TEST_MODEL")
    return Path(given) if given else fetch_starter_model()
