"""Split models (F30): a set of files, registered by the first one."""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from appliance.domain.split_models import model_files, parse_part_name
from appliance.errors import InvalidInput, ModelUnavailable
from appliance.models.registry import ModelRegistry
from tests.support.gguf_files import METADATA, gguf, write_gguf
from tests.support.llama_provider import complete, provider_for, request
from tests.support.model_registry import add_error, list_files
from tests.support.package_server import PackageServer
from tests.support.tiny_gguf import write_split_tiny_gguf

COPIES = [f"big-0000{number}-of-00003.gguf" for number in (1, 2, 3)]


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The first of three files of a model that llama.cpp can load."""
    folder = tmp_path / "source"
    folder.mkdir()
    return write_split_tiny_gguf(folder, "Big")


def joined(first: Path) -> bytes:
    return b"".join(file.read_bytes() for file in model_files(first))


async def test_add_when_given_the_first_file_then_all_are_copied_hashed_and_removed(
    registry: ModelRegistry, first: Path, tmp_path: Path
) -> None:
    model = await registry.add(str(first))
    assert model.alias == "big"
    assert list_files(tmp_path) == COPIES
    assert Path(model.path).name == COPIES[0]
    assert joined(Path(model.path)) == joined(first)
    assert model.sha256 == hashlib.sha256(joined(first)).hexdigest()
    assert model.size == len(joined(first))
    assert await registry.check("big") == model
    await registry.remove("big")
    assert list_files(tmp_path) == []


async def test_add_when_in_place_then_nothing_is_copied(
    registry: ModelRegistry, first: Path, tmp_path: Path
) -> None:
    sha256 = hashlib.sha256(joined(first)).hexdigest()
    model = await registry.add(str(first), "x", in_place=True, sha256=sha256)
    assert (model.path, list_files(tmp_path)) == (str(first), [])
    assert await registry.check("x") == model
    await registry.remove("x")
    assert all(file.exists() for file in model_files(first))


async def test_provider_when_a_model_is_split_then_the_confined_engine_loads_every_part(
    registry: ModelRegistry, first: Path, tmp_path: Path
) -> None:
    model = await registry.add(str(first))
    (tmp_path / "run").mkdir()
    provider, _ = provider_for(tmp_path, {"big": Path(model.path)})
    try:
        text, finished = await complete(provider, request("hello", model="big", max_tokens=4))
        assert (bool(text), finished.usage.completion_tokens) == (True, 4)
        [info] = await provider.models()
        assert "landlock" in info.layers or any("landlock" in each for each in info.degraded)
    finally:
        await provider.close()


@pytest.mark.parametrize("missing", [2, 3])
async def test_add_when_a_part_is_missing_then_it_is_named(
    registry: ModelRegistry, first: Path, tmp_path: Path, missing: int
) -> None:
    lost = model_files(first)[missing - 1]
    await asyncio.to_thread(lost.unlink)
    assert await add_error(registry, str(first)) == f"{lost}: no such file"
    assert list_files(tmp_path) == []


async def test_add_when_given_another_part_then_says_to_add_the_first(
    registry: ModelRegistry, first: Path
) -> None:
    message = await add_error(registry, str(model_files(first)[1]))
    assert "part 2 of 3" in message
    assert "add the first one" in message


async def test_add_when_parts_are_swapped_or_of_another_set_then_refused(
    registry: ModelRegistry, first: Path, tmp_path: Path
) -> None:
    files = model_files(first)
    other = write_split_tiny_gguf(tmp_path, "Big", count=4)
    (tmp_path / other.name).rename(files[2])
    assert "(part 3 of 3): its header says part 1 of 4" in await add_error(registry, str(first))
    files[2].write_bytes(files[1].read_bytes())
    assert "(part 3 of 3): its header says part 2 of 3" in await add_error(registry, str(first))


async def test_add_when_the_parts_hold_too_few_tensors_then_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    for at in (0, 1):
        place = {"split.no": at, "split.count": 2, "split.tensors.count": 3}
        path = tmp_path / f"few-0000{at + 1}-of-00002.gguf"
        path.write_bytes(gguf(METADATA | place))
    message = await add_error(registry, str(tmp_path / "few-00001-of-00002.gguf"))
    assert "the parts have 2 tensors, the first one declares 3" in message


async def test_add_when_name_and_header_disagree_then_refused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    for number in (1, 2):
        write_gguf(tmp_path / f"plain-0000{number}-of-00002.gguf")
    message = await add_error(registry, str(tmp_path / "plain-00001-of-00002.gguf"))
    assert "its header says part 1 of 1" in message
    with pytest.raises(InvalidInput, match="like a part of a split model"):
        await registry.add(str(write_gguf(tmp_path / "x.gguf")), "x-00001-of-00002")


async def test_check_when_a_later_part_was_touched_or_changed_then_hashed_again(
    registry: ModelRegistry, first: Path
) -> None:
    model = await registry.add(str(first))
    last = model_files(Path(model.path))[-1]
    os.utime(last, (1, 1))
    assert await registry.check("big") == model
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    with pytest.raises(ModelUnavailable, match="the file was changed"):
        await registry.check("big")


async def test_add_when_given_the_url_of_the_first_file_then_downloads_all(
    registry: ModelRegistry, server: PackageServer, first: Path, tmp_path: Path
) -> None:
    files = model_files(first)
    server.files |= {file.name: file.read_bytes() for file in files[:2]}
    url = f"{server.file_url(first.name)}?token=x"
    assert "HTTP status 404" in await add_error(registry, url)
    server.files[files[2].name] = files[2].read_bytes()
    model = await registry.add(url)
    assert joined(Path(model.path)) == joined(first)
    assert list_files(tmp_path) == COPIES
    # What was complete at the first attempt is not downloaded again.
    assert [len(server.headers_of(f"/files/{file.name}")) for file in files] == [1, 1, 2]
    assert all(path.endswith("?token=x") for path, _ in server.requests)


@pytest.mark.parametrize(
    "name",
    ["x.gguf", "x-00000-of-00002.gguf", "x-00003-of-00002.gguf", "x-00001-of-00001.gguf",
     "x-00001-of-99999.gguf", "x-1-of-2.gguf", "-00001-of-00002.gguf", "x-00001-of-00002.GGUF"],
)  # fmt: skip
def test_parse_when_it_is_no_name_of_a_part_then_none(name: str) -> None:
    assert parse_part_name(name) is None
    assert model_files(Path("/m") / name) == [Path("/m") / name]
