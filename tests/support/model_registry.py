"""Adds models to a registry on a real database, and looks at what is left in its folder."""

import os
from pathlib import Path

import pytest

from appliance.errors import ApplianceError
from appliance.models.registry import ModelRegistry
from appliance.store.sqlite.database import Database


def create_registry(database: Database, tmp_path: Path, **environ: str) -> ModelRegistry:
    """A registry that reads pip's settings from `environ` only."""
    home = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    return ModelRegistry(database, tmp_path / "data", home | environ)


def list_files(tmp_path: Path) -> list[str]:
    """The files in the models folder, partial downloads included."""
    folder = tmp_path / "data/models"
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in files if name != ".lock")


async def add_error(registry: ModelRegistry, source: str, sha256: str = "") -> str:
    """The message of the error with which adding a source fails."""
    with pytest.raises(ApplianceError) as caught:
        await registry.add(source, sha256=sha256)
    return caught.value.message
