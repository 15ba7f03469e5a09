"""Downloads one large file: resumable, retried, checked for disk space and file type."""

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
from appliance.models.sources.http import describe_network_error, redact_url, require_no_downgrade

Progress = Callable[[str, int, int | None], None]
"""Called with (step, bytes done, total bytes or None if unknown)."""

RESERVE_BYTES = 64 * 1024 * 1024
BACKOFF_S = 1.0
_ATTEMPTS = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _TransferInterrupted(Exception):
    """The transfer failed and can be retried."""


class _PartialFile:
    """A partial download, and beside it the validator (ETag or date) of the remote file."""

    def __init__(self, path: Path, magic: bytes) -> None:
        self._path = path
        self._validator_path = path.with_name(path.name + ".version")
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
    def validator(self) -> str:
        return self._validator_path.read_text() if self._validator_path.exists() else ""

    def restart(self, validator: str) -> None:
        self._file.truncate(0)
        self._validator_path.write_text(validator)

    def append(self, chunk: bytes) -> None:
        """Raises InvalidInput as soon as the file can't start with the magic bytes."""
        self._file.write(chunk)
        if self._file.tell() <= len(chunk) + len(self._magic):
            self._check_magic()

    def complete(self) -> None:
        self._check_magic(whole=True)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._validator_path.unlink(missing_ok=True)

    def _check_magic(self, *, whole: bool = False) -> None:
        self._file.seek(0)
        start = self._file.read(len(self._magic))
        self._file.seek(0, os.SEEK_END)
        if start != self._magic and (whole or not self._magic.startswith(start)):
            self.restart("")
            raise InvalidInput(
                f"unexpected file type: it starts with {start!r}, expected {self._magic!r}"
            )


def delete_partial(target: Path) -> None:
    """Delete a download, complete or partial."""
    target.unlink(missing_ok=True)
    target.with_name(target.name + ".version").unlink(missing_ok=True)


def require_disk_space(folder: Path, needed: int) -> None:
    """Raises SetupError unless `needed` bytes plus RESERVE_BYTES are free."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVE_BYTES > free:
        raise SetupError(
            f"not enough disk space: {needed / 1e9:.2f} GB needed, {free / 1e9:.2f} GB free; "
            "free some space, or choose another disk with --data-dir"
        )


async def download(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    magic: bytes,
    progress: Progress,
) -> None:
    """Download `url` to `target`; resumes a partial download if the server supports it.

    Raises InvalidInput for an HTTP error status or a file that does not start with `magic`,
    SetupError for lack of disk space, Unavailable after _ATTEMPTS network failures. The
    partial file is kept then, so that a later call can resume it.
    """
    part = _PartialFile(target, magic)
    try:
        await _download_with_retries(client, url, part, progress)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{redact_url(url)}: {error}") from None
    except InvalidInput as error:
        raise InvalidInput(f"{redact_url(url)}: {error.message}") from None
    finally:
        if not part.size:
            delete_partial(target)
        part.close()


async def _download_with_retries(
    client: httpx.AsyncClient, url: str, part: _PartialFile, progress: Progress
) -> None:
    reason = ""
    for attempt in range(_ATTEMPTS):
        try:
            await _transfer(client, url, part, progress)
        except (httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise InvalidInput(str(error)) from None
        except httpx.HTTPError as error:
            reason = describe_network_error(error)
        except _TransferInterrupted as error:
            reason = str(error)
        else:
            part.complete()
            return
        await asyncio.sleep(BACKOFF_S * 2**attempt)
    raise Unavailable(
        f"{redact_url(url)}: the download failed {_ATTEMPTS} times ({reason}); "
        "run the same command again to resume it"
    )


async def _transfer(
    client: httpx.AsyncClient, url: str, part: _PartialFile, progress: Progress
) -> None:
    async with client.stream("GET", url, headers=_request_headers(part)) as response:
        _check_status(response, part)
        total = _start_or_resume(response, part)
        require_disk_space(part.folder, (total or 0) - part.size)
        step = f"downloading {url_file_name(url)}"
        async for chunk in response.aiter_raw():
            part.append(chunk)
            progress(step, part.size, total)
    if total is not None and part.size != total:
        raise _TransferInterrupted(f"the connection closed after {part.size} of {total} bytes")


def _request_headers(part: _PartialFile) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    return headers


def _check_status(response: httpx.Response, part: _PartialFile) -> None:
    require_no_downgrade(response)
    status = response.status_code
    text = f"HTTP status {status} {response.reason_phrase}"
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        part.restart("")
        raise _TransferInterrupted("the partial download does not match the remote file")
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
        raise _TransferInterrupted(text)
    if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        raise InvalidInput(text)


def _start_or_resume(response: httpx.Response, part: _PartialFile) -> int | None:
    """Prepare the partial file for the response's body; returns the total size, if known."""
    headers = response.headers
    if response.status_code == HTTPStatus.PARTIAL_CONTENT:
        extent = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if extent is None or int(extent[1]) != part.size:
            part.restart("")
            raise _TransferInterrupted("the server resumed at a different offset")
        return int(extent[2])
    # If-Range needs a strong ETag or a date (RFC 9110, section 13.1.5).
    etag = headers.get("etag", "")
    part.restart(headers.get("last-modified", "") if etag[:2] in ("", "W/") else etag)
    length = headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def url_file_name(url: str) -> str:
    """The last segment of the URL's path."""
    return unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2] or "file"
