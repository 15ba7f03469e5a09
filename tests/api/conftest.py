"""The API under test, and a client of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from appliance.config.settings import Settings
from tests.api.application import Api, open_api, settings_with


@pytest.fixture
def settings() -> Settings:
    """Overridden by tests that need other settings."""
    return settings_with()


@pytest.fixture
async def api(tmp_path: Path, settings: Settings) -> AsyncIterator[Api]:
    async with open_api(tmp_path / "server.db", settings) as opened:
        yield opened


@pytest.fixture
async def client(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """Alice's client."""
    async with api.client() as opened:
        yield opened
