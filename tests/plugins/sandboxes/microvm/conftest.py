"""Folders of a micro-VM backend."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "run").mkdir()
        yield Path(folder)
