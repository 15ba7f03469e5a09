"""Finds the wheels of a package on the configured package indexes.

Reads the simple repository API as JSON (PEP 691) or HTML (PEP 503), from a server or a
folder, and pip's find-links folders and pages. Versions follow PEP 440.
"""

from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

import httpx
import msgspec
from msgspec import Struct
from packaging.specifiers import Specifier
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from appliance.config.home import expand_home
from appliance.errors import ApplianceError, InvalidInput, Unavailable
from appliance.models.sources.http import describe_network_error, redact_url, require_no_downgrade
from appliance.models.sources.pip_config import PipConfig

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.2"
_MAX_PAGE_BYTES = 64 * 1024 * 1024
_MAX_LISTED_VERSIONS = 10
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Wheel(Struct, frozen=True):
    """A wheel on an index. `sha256` ("" if none) and `size` in bytes are the index's claims."""

    version: Version
    filename: str
    url: str
    sha256: str = ""
    size: int | None = None
    yanked: bool = False

    @property
    def local_path(self) -> Path | None:
        """Its path, if it is on this machine."""
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
    """The matching wheels of a package, one per version, newest first.

    Without `version`, pre-releases are used only if there is no final release, and yanked
    wheels never. Raises InvalidInput if no wheel matches, Unavailable if an index failed
    and the others have no match.
    """
    wheels: list[Wheel] = []
    problems: list[str] = []
    name = canonicalize_name(package)
    pages = [(f"{index.rstrip('/')}/{name}/", index) for index in config.indexes]
    pages += [(link, link) for link in config.find_links]
    for page, index in pages:
        try:
            wheels += [wheel async for wheel in _list_wheels(client, config, page, name)]
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ApplianceError) as error:
            appliance_error = isinstance(error, ApplianceError)
            reason = error.message if appliance_error else describe_network_error(error)
            problems.append(f"{redact_url(index)}: {reason}")
    selected = select_wheels(wheels, version)
    if selected:
        return selected
    if problems:
        raise Unavailable(f"no wheel of {package} found: {'; '.join(problems)}")
    raise InvalidInput(_describe_missing(package, version, wheels, config))


def select_wheels(wheels: list[Wheel], version: str | None) -> list[Wheel]:
    """The wheels that match `version`, or the newest releases; see find_wheels."""
    if version is not None:
        return _one_per_version([wheel for wheel in wheels if _matches(wheel.version, version)])
    available = [wheel for wheel in wheels if not wheel.yanked]
    final = [wheel for wheel in available if not wheel.version.is_prerelease]
    return _one_per_version(final or available)


def _matches(version: Version, requested: str) -> bool:
    """Version matching of PEP 440: "1.0" matches 1.0, 1.0.0 and 1.0+local."""
    try:
        return Specifier(f"=={requested}").contains(version, prereleases=True)
    except ValueError:  # not a version, or one with more digits than int accepts
        return False


def _one_per_version(wheels: list[Wheel]) -> list[Wheel]:
    """The first wheel of each version, newest version first."""
    first: dict[Version, Wheel] = {}
    for wheel in wheels:
        first.setdefault(wheel.version, wheel)
    return [first[version] for version in sorted(first, reverse=True)]


def _describe_missing(
    package: str, version: str | None, wheels: list[Wheel], config: PipConfig
) -> str:
    if version is None or not wheels:
        indexes = ", ".join(redact_url(index) for index in (*config.indexes, *config.find_links))
        return f"no wheel of {package!r} at {indexes or 'any index: none is configured'}"
    listed = _one_per_version(wheels)[:_MAX_LISTED_VERSIONS]
    available = ", ".join(str(wheel.version) for wheel in listed)
    return f"{package!r} has no wheel of version {version}; available: {available}"


async def _list_wheels(
    client: httpx.AsyncClient, config: PipConfig, page: str, package: str
) -> AsyncIterator[Wheel]:
    async for file in _list_files(client, config, page):
        try:
            name, version, _, _ = parse_wheel_filename(file.filename)
        except ValueError:  # not a wheel, or not a version of PEP 440
            continue
        if name == package:
            yield Wheel(
                version=version,
                filename=file.filename,
                url=_add_credentials(file.url, page),
                sha256=file.hashes.get("sha256", "").lower(),
                size=file.size,
                yanked=file.yanked is not False,
            )


async def _list_files(
    client: httpx.AsyncClient, config: PipConfig, page: str
) -> AsyncIterator[_IndexFile]:
    parts = urlsplit(page)
    if parts.scheme in ("http", "https"):
        for file in await _fetch_page(client, config, page):
            yield file
    else:
        for file in _read_local_page(unquote(parts.path) if parts.scheme == "file" else page):
            yield file


def _read_local_page(location: str) -> Iterator[_IndexFile]:
    """The files listed by an HTML file, by a folder's index.html, or the folder's own files."""
    path = expand_home(location)
    page = path / "index.html" if path.is_dir() else path
    if page.is_file() and page.suffix == ".html":
        yield from _parse_html(page.read_text(errors="replace"), page.absolute().as_uri())
    elif path.is_dir():
        for file in sorted(path.iterdir()):
            yield _IndexFile(file.name, file.absolute().as_uri(), size=file.stat().st_size)


async def _fetch_page(client: httpx.AsyncClient, config: PipConfig, page: str) -> list[_IndexFile]:
    host = urlsplit(page).hostname or ""
    if page.startswith("http://") and host not in (*_LOOPBACK, *config.trusted_hosts):
        raise Unavailable("plain http; use https, or add the host to pip's trusted-host")
    async with client.stream("GET", page, headers={"Accept": _ACCEPT}) as response:
        require_no_downgrade(response)
        if response.status_code == HTTPStatus.NOT_FOUND:
            return []
        if response.is_error:
            raise Unavailable(f"HTTP status {response.status_code} {response.reason_phrase}")
        content = await _read_bounded(response)
    base = str(response.url)
    if "json" not in response.headers.get("content-type", ""):
        return list(_parse_html(content.decode(errors="replace"), base))
    try:
        files = msgspec.json.decode(content, type=_IndexPage).files
    except msgspec.DecodeError:
        raise Unavailable("the response is not a package index page") from None
    return [msgspec.structs.replace(file, url=urljoin(base, file.url)) for file in files]


async def _read_bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > _MAX_PAGE_BYTES:
            raise Unavailable(f"the response has more than {_MAX_PAGE_BYTES} bytes")
    return bytes(content)


def _parse_html(page: str, base: str) -> Iterator[_IndexFile]:
    parser = _LinkParser()
    parser.feed(page)
    for href, yanked in parser.links:
        url, fragment = urldefrag(urljoin(urljoin(base, parser.base), href))
        algorithm, _, digest = fragment.partition("=")
        filename = unquote(urlsplit(url).path.rpartition("/")[2])
        yield _IndexFile(filename, url, {algorithm: digest} if digest else {}, yanked=yanked)


class _LinkParser(HTMLParser):
    """Collects (href, yanked) of every link, and the base address."""

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


def _add_credentials(url: str, page: str) -> str:
    """The URL of a file with the credentials of its index, if it is on the same host."""
    file, index = urlsplit(url), urlsplit(page)
    credentials, at, host = index.netloc.rpartition("@")
    if at and file.scheme == index.scheme and file.netloc == host:
        return urlunsplit(file._replace(netloc=f"{credentials}@{host}"))
    return url
