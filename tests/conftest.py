"""Fixtures shared by every test."""

import os
from pathlib import Path

import pytest

from tests.support.starter_model import fetch_starter_model


@pytest.fixture(scope="session")
def starter_model() -> Path:
    """SmolLM2-135M-Instruct Q4_1: the real, small model that every machine can run."""
    given = os.environ.get("MONKEY_CODER_TEST_MODEL")
    return Path(given) if given else fetch_starter_model()
