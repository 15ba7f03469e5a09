"""One box with the starter model, for every end-to-end test that doesn't break it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.box import Box, running_box

# The model seldom ends by itself: what it adds after these tokens would only take time.
SHORT = {"MONKEY_CODER__AGENT__MAX_OUTPUT_TOKENS": "200"}


@pytest.fixture(scope="session")
def box(starter_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with running_box(tmp_path_factory.mktemp("box") / "data", starter_model, **SHORT) as running:
        running.make_key()
        running.wait_ready()
        yield running


@pytest.fixture
def client(box: Box) -> Iterator[httpx.Client]:
    with box.client() as opened:
        yield opened
