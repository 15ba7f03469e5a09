"""A database for the tests of sandbox runs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.store.sqlite.database import Database


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "runs.db")
    yield opened
    await opened.close()
