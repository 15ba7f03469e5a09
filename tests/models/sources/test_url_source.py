"""Models from a URL: verified, resumable, retried."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError, Unavailable
from appliance.models.registry import ModelRegistry
from appliance.store.sqlite.database import Database
from tests.support.gguf_files import METADATA, gguf
from tests.support.model_registry import add_error, create_registry, list_files
from tests.support.package_server import PackageServer

MODEL = gguf(elements=200_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()


def read(model: ModelFile) -> bytes:
    return Path(model.path).read_bytes()


def mode(model: ModelFile) -> int:
    return Path(model.path).stat().st_mode & 0o777


async def test_add_when_given_a_url_then_downloads_and_checks(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["Tiny.gguf"] = MODEL
    steps: dict[str, tuple[int, int | None]] = {}
    model = await registry.add(
        server.file_url("Tiny.gguf"),
        progress=lambda step, done, total: steps.update({step: (done, total)}),
        sha256=SHA256.upper(),
    )
    assert read(model) == MODEL
    assert mode(model) == 0o600
    assert model.sha256 == SHA256
    assert steps["downloading Tiny.gguf"] == (len(MODEL), len(MODEL))
    assert list_files(tmp_path) == ["tiny.gguf"]


async def test_add_when_the_url_holds_secrets_then_they_are_neither_stored_nor_shown(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"] = MODEL
    secret = server.file_url("a.gguf").replace("http://", "http://me:hush@") + "?token=hush"
    assert "hush" not in (await registry.add(secret, "a")).source
    message = await add_error(registry, secret.replace("a.gguf", "b.gguf"))
    assert "404" in message
    assert "hush" not in message


async def test_add_when_the_connection_breaks_then_the_download_resumes(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [100_000, 200_000]
    model = await registry.add(server.file_url("a.gguf"))
    assert read(model) == MODEL
    ranges = [headers.get("range") for headers in server.headers_of("/files/a.gguf")]
    assert ranges[0] is None
    assert len(ranges) == 3
    assert all(value and value.startswith("bytes=") for value in ranges[1:])


async def test_add_when_all_attempts_fail_then_the_next_call_resumes(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [1000] * 4
    assert "run the same command again" in await add_error(registry, server.file_url("a.gguf"))
    assert await registry.list() == []
    assert any("part-" in name for name in list_files(tmp_path))
    await registry.add(server.file_url("a.gguf"))
    assert "range" in server.headers_of("/files/a.gguf")[-1]
    assert list_files(tmp_path) == ["a.gguf"]


async def test_add_when_the_file_changed_meanwhile_then_starts_over(
    registry: ModelRegistry, server: PackageServer
) -> None:
    other = gguf(METADATA | {"general.name": "Other"}, elements=200_000)
    server.files["a.gguf"] = other
    server.cut_after = [1000] * 4
    await add_error(registry, server.file_url("a.gguf"))
    server.files["a.gguf"], server.etag = MODEL, '"two"'
    model = await registry.add(server.file_url("a.gguf"))
    assert model.sha256 == SHA256


async def test_add_when_the_server_sends_no_validator_then_starts_over_each_time(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.files["a.gguf"], server.etag = MODEL, ""
    server.cut_after = [1000]
    assert (await registry.add(server.file_url("a.gguf"))).sha256 == SHA256
    assert all("range" not in headers for headers in server.headers_of("/files/a.gguf"))


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
    assert all(".incoming/part-" in f"/{name}" for name in list_files(tmp_path))


@pytest.mark.parametrize("found", [b"<html>please log in</html>", b"GG", b"", b"GGUX" * 1000])
async def test_add_when_the_file_has_another_type_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path, found: bytes
) -> None:
    server.files["a.gguf"] = found
    assert "unexpected file type" in await add_error(registry, server.file_url("a.gguf"))
    assert list_files(tmp_path) == []


async def test_add_when_the_hash_differs_then_is_refused_and_leaves_nothing(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    assert "expected ffff" in await add_error(registry, server.file_url("a.gguf"), "f" * 64)
    assert list_files(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_add_when_the_status_is_an_error_then_fails_at_once(
    registry: ModelRegistry, server: PackageServer, status: int
) -> None:
    server.status = status
    assert str(status) in await add_error(registry, server.file_url("a.gguf"))
    assert len(server.requests) == 1


async def test_add_when_the_server_is_overloaded_then_tries_again(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.status = 503
    assert "503" in await add_error(registry, server.file_url("a.gguf"))
    assert len(server.requests) == 4


async def test_add_when_the_server_redirects_in_circles_then_ends(
    registry: ModelRegistry, server: PackageServer
) -> None:
    server.redirect = f"{server.url}/moved/x.gguf"
    assert "redirect" in await add_error(registry, f"{server.url}/moved/x.gguf")


async def test_add_when_the_url_is_refused_later_then_the_part_is_kept(
    registry: ModelRegistry, server: PackageServer, tmp_path: Path
) -> None:
    server.files["a.gguf"] = MODEL
    server.cut_after = [1000] * 4
    await add_error(registry, server.file_url("a.gguf"))
    server.status = 403
    await add_error(registry, server.file_url("a.gguf"))
    assert any("part-" in name for name in list_files(tmp_path))


async def test_add_when_the_proxy_is_invalid_then_error_does_not_show_its_password(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(database, tmp_path, PIP_PROXY="gopher://me:hush@proxy:1")
    message = await add_error(registry, "pypi:tiny-model")
    assert "proxy" in message
    assert "hush" not in message


async def test_add_when_the_certificate_file_is_missing_then_error_names_it(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(database, tmp_path, PIP_CERT=str(tmp_path / "none.pem"))
    assert "none.pem" in await add_error(registry, "pypi:tiny-model")


async def test_add_when_nobody_listens_then_error_names_the_host(
    database: Database, tmp_path: Path
) -> None:
    registry = create_registry(database, tmp_path)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9/"):
        await registry.add("http://127.0.0.1:9/a.gguf")


async def test_add_when_the_url_is_malformed_then_says_so(registry: ModelRegistry) -> None:
    for address in ("http://", "http://[::1", "https://host:99999/x.gguf"):
        with pytest.raises(ApplianceError):
            await registry.add(address)
