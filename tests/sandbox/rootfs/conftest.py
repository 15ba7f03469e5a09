"""A small root file system and a data directory."""

from pathlib import Path

import pytest

from tests.support.rootfs import (
    make_root,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("root") / "tiny")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"
