"""Downloads one large file: resumable, bounded by the disk, refused early if it is another kind."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from appliance.errors import InvalidInput, SetupError, Unavailable
from appliance.models.sources.http import check_redirects, network_reason, without_secrets

Progress = Callable[[str, int, int | None], None]
"""Called with (what is being done, bytes done, bytes in all if known)."""

RESERVE_BYTES = 64 * 1024 * 1024
BACKOFF_S = 1.0
_ATTEMPTS = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _InterruptedError(Exception):
    """The transfer broke off and may be taken up again."""


class _Part:
    """The file that grows, and beside it the server's mark of the version that it is of."""

    def __init__(self, path: Path, magic: bytes) -> None:
        self._path = path
        self._mark = path.with_name(path.name + ".version")
        self._magic = magic
        self._file = path.open("a+b")

    def close(self) -> None:
        self._file.close()

    @property
    def folder(self) -> Path:
        return self._path.parent

    @property
    def size(self) -> int:
        return self._file.seek(0, os.SEEK_END)

    @property
    def version(self) -> str:
        return self._mark.read_text() if self._mark.exists() else ""

    def start_over(self, version: str) -> None:
        self._file.truncate(0)
        self._mark.write_text(version)

    def append(self, chunk: bytes) -> None:
        """Raises InvalidInput as soon as it is seen not to start with the magic."""
        self._file.write(chunk)
        if self._file.tell() <= len(chunk) + len(self._magic):
            self._check_magic()

    def complete(self) -> None:
        self._check_magic(whole=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._mark.unlink(missing_ok=True)

    def _check_magic(self, *, whole: bool = False) -> None:
        self._file.seek(0)
        start = self._file.read(len(self._magic))
        self._file.seek(0, os.SEEK_END)
        if start != self._magic and (whole or not self._magic.startswith(start)):
            self.start_over("")
            raise InvalidInput(f"what comes is not the file: it starts with {start!r}")


def discard(target: Path) -> None:
    """Remove a download, whole or partial."""
    target.unlink(missing_ok=True)
    target.with_name(target.name + ".version").unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise SetupError unless `needed` bytes, and some reserve, are free."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVE_BYTES > free:
        raise SetupError(
            f"not enough disk: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are "
            "free; make room, or choose another disk with --data-dir"
        )


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    magic: bytes,
    progress: Progress,
) -> None:
    """Download `url` to `target`, going on where an earlier call stopped if the server can.

    Raises InvalidInput for an address that has not the file (what does not start with
    `magic` is refused at once), SetupError if the disk is too small, Unavailable if the
    network failed repeatedly; then the part stays, to be taken up again.
    """
    part = _Part(target, magic)
    try:
        await _fetch(client, url, part, progress)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{without_secrets(url)}: {error}") from None
    except InvalidInput as error:
        raise InvalidInput(f"{without_secrets(url)}: {error.message}") from None
    finally:
        if not part.size:
            discard(target)
        part.close()


async def _fetch(client: httpx.AsyncClient, url: str, part: _Part, progress: Progress) -> None:
    reason = ""
    for attempt in range(_ATTEMPTS):
        try:
            await _transfer(client, url, part, progress)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise InvalidInput(str(error)) from None
        except httpx.HTTPError as error:
            reason = network_reason(error)
        except _InterruptedError as error:
            reason = str(error)
        else:
            part.complete()
            return
        await asyncio.sleep(BACKOFF_S * 2**attempt)
    raise Unavailable(
        f"{without_secrets(url)}: the download failed {_ATTEMPTS} times ({reason}); "
        "run the same command again to go on where it stopped"
    )


async def _transfer(client: httpx.AsyncClient, url: str, part: _Part, progress: Progress) -> None:
    async with client.stream("GET", url, headers=_headers(part)) as answer:
        _check_answer(answer, part)
        total = _take_up(answer, part)
        check_space(part.folder, (total or 0) - part.size)
        step = f"downloading {file_name(url)}"
        async for chunk in answer.aiter_raw():
            part.append(chunk)
            progress(step, part.size, total)
    if total is not None and part.size != total:
        raise _InterruptedError(f"it broke off after {part.size} of {total} bytes")


def _headers(part: _Part) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.version:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.version}
    return headers


def _check_answer(answer: httpx.Response, part: _Part) -> None:
    check_redirects(answer)
    status, said = answer.status_code, f"{answer.status_code} {answer.reason_phrase}"
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.start_over("")
        raise _InterruptedError("the part that was there does not fit the file")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise _InterruptedError(f"the server answered {said}")
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise InvalidInput(f"the server answered {said}")


def _take_up(answer: httpx.Response, part: _Part) -> int | None:
    """Make the part ready for what comes; the size of the whole file, if the server says it."""
    headers = answer.headers
    if answer.status_code == HTTPStatus.PARTIAL_CONTENT:
        extent = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if extent is None or int(extent[1]) != part.size:
            part.start_over("")
            raise _InterruptedError("the server went on at another place")
        return int(extent[2])
    # Only a strong mark tells that the file is the same, byte for byte.
    etag = headers.get("etag", "")
    part.start_over(headers.get("last-modified", "") if etag[:2] in ("", "W/") else etag)
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def file_name(url: str) -> str:
    """The last word of an address's path."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "file"
