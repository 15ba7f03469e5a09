"""Integrity checks before each load: damaged, changed and moved files; the updated record."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from msgspec import structs

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import ModelUnavailable, UnknownModel
from appliance.models import integrity
from appliance.models.registry import ModelRegistry
from appliance.store.sqlite.database import Database
from tests.support.gguf_files import write_gguf

PROBE = ModelProbe("key", 4, 128, 900.0, 45.5, 123_456_789, 1.5, 1.7e9)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database, None]:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    opened = await Database.open(data_dir / "appliance.db")
    yield opened
    await opened.close()


@pytest.fixture
def registry(database: Database, tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(database, tmp_path / "data", {})


@pytest.fixture
async def model(registry: ModelRegistry, tmp_path: Path) -> ModelFile:
    return await registry.add(str(write_gguf(tmp_path / "m.gguf")), "m")


def _flip_last_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _append(path: Path, more: bytes) -> None:
    with path.open("ab") as file:
        file.write(more)


async def _refused(registry: ModelRegistry) -> str:
    with pytest.raises(ModelUnavailable) as caught:
        await registry.check("m")
    return caught.value.message


async def test_check_when_nothing_changed_then_passes_without_reading_the_content(
    registry: ModelRegistry, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "hash_files", None)
    assert await registry.check("m") == model


async def test_check_when_only_the_time_changed_then_hashed_once_and_accepted(
    registry: ModelRegistry, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(model.path, (1, 1))
    assert await registry.check("m") == model
    monkeypatch.setattr(integrity, "hash_files", None)
    assert await registry.check("m") == model


async def test_check_when_content_changed_then_refused_with_both_sums(
    registry: ModelRegistry, model: ModelFile
) -> None:
    _flip_last_byte(Path(model.path))
    message = await _refused(registry)
    assert model.sha256 in message
    assert "model remove m" in message
    assert "/" not in message


async def test_check_when_size_changed_then_refused_with_both_sizes(
    registry: ModelRegistry, model: ModelFile
) -> None:
    _append(Path(model.path), b"x")
    message = await _refused(registry)
    assert f"{model.size + 1} bytes" in message
    assert str(model.size) in message


async def test_check_when_file_is_gone_or_a_folder_then_refused_with_the_reason(
    registry: ModelRegistry, model: ModelFile
) -> None:
    await asyncio.to_thread(Path(model.path).unlink)
    assert "No such file" in await _refused(registry)
    await asyncio.to_thread(Path(model.path).mkdir)
    assert "bytes" in await _refused(registry)


async def test_check_when_model_is_unknown_then_says_so(registry: ModelRegistry) -> None:
    with pytest.raises(UnknownModel):
        await registry.check("nothing")


async def test_check_when_record_is_of_an_older_program_then_filled_in(
    registry: ModelRegistry, model: ModelFile, database: Database
) -> None:
    async with database.write() as tx:
        await tx.execute("UPDATE models SET kv_bytes_per_token = 0, checked_mtime_ns = 0")
    assert (await registry.get("m")).kv_bytes_per_token == 0
    assert await registry.check("m") == model
    assert await registry.get("m") == model
    assert model.kv_bytes_per_token > 0


async def test_probe_when_kept_then_read_again_and_replaced_by_the_next(
    registry: ModelRegistry, model: ModelFile
) -> None:
    assert await registry.probe("m") is None
    await registry.store_probe("m", PROBE)
    assert await registry.probe("m") == PROBE
    slower = structs.replace(PROBE, prefill_tokens_per_second=None, threads=2)
    await registry.store_probe("m", slower)
    assert await registry.probe("m") == slower


async def test_probe_when_model_is_removed_then_gone_with_it_and_keeping_is_no_error(
    registry: ModelRegistry, model: ModelFile, tmp_path: Path
) -> None:
    await registry.store_probe("m", PROBE)
    await registry.remove("m")
    await registry.store_probe("m", PROBE)
    assert await registry.probe("m") is None
    await registry.add(str(tmp_path / "m.gguf"), "m")
    assert await registry.probe("m") is None


@pytest.mark.parametrize(
    ("changes", "embeds", "fills_in"),
    [
        ({}, False, False),
        ({"llama__pooling_type": 3}, True, False),
        ({"tokenizer__ggml__tokens": ["<PRE>", "<SUF>", "<MID>"]}, False, True),
        ({"tokenizer__ggml__tokens": ["<PRE>", "<SUF>"]}, False, False),
        (
            {f"tokenizer__ggml__fim_{which}_token_id": 1 for which in ("pre", "suf", "mid")},
            False,
            True,
        ),
    ],
)
async def test_add_when_header_says_what_the_model_can_do_then_kept(
    registry: ModelRegistry,
    tmp_path: Path,
    changes: dict[str, object],
    embeds: bool,
    fills_in: bool,
) -> None:
    model = await registry.add(str(write_gguf(tmp_path / "x.gguf", **changes)))
    assert (model.embeds, model.fills_in) == (embeds, fills_in)
