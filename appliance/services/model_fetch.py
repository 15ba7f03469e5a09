"""Downloads one large file: resumable, bounded by the disk, and only if it is what it should be."""

import asyncio
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx
import msgspec
from msgspec import Struct

from appliance.errors import InvalidInput, SetupError, Unavailable
from appliance.services.network import network_reason, without_secrets

Progress = Callable[[str, int, int | None], None]
"""Called with (what is being done, bytes done, bytes in all if known)."""

RESERVE_BYTES = 64 * 1024 * 1024
_ATTEMPTS = 4
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class _Resume(Struct):
    """What a later attempt needs to know, beside the part that is there."""

    validator: str


class _Interrupted(Exception):
    """The transfer broke off and may be taken up again."""


async def fetch(
    client: httpx.AsyncClient,
    url: str,
    target: Path,
    *,
    magic: bytes,
    progress: Progress,
    backoff_s: float = 1.0,
) -> None:
    """Download `url` to `target`, going on where an earlier call stopped if the server can.

    What does not start with `magic` is refused at once. Raises InvalidInput for an
    address that can't be the file, Unavailable if the network failed repeatedly (the
    part stays, to be taken up again), SetupError if the disk is too small.
    """
    for attempt in range(_ATTEMPTS):
        try:
            await _attempt(client, url, target, magic, progress)
            _resume_file(target).unlink(missing_ok=True)
            return
        except (httpx.TransportError, _Interrupted) as error:
            reason = network_reason(error) if isinstance(error, httpx.HTTPError) else str(error)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
            raise InvalidInput(f"{without_secrets(url)}: {error}") from None
        await asyncio.sleep(backoff_s * 2**attempt)
    raise Unavailable(
        f"{without_secrets(url)}: the download failed {_ATTEMPTS} times ({reason}); "
        "run the same command again to go on where it stopped"
    )


def discard(target: Path) -> None:
    """Remove a partial download."""
    target.unlink(missing_ok=True)
    _resume_file(target).unlink(missing_ok=True)


def check_space(folder: Path, needed: int) -> None:
    """Raise SetupError unless `needed` bytes, and some reserve, are free."""
    free = shutil.disk_usage(folder).free
    if needed + RESERVE_BYTES > free:
        raise SetupError(
            f"not enough disk: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are "
            "free; make room, or choose another disk with --data-dir"
        )


async def _attempt(
    client: httpx.AsyncClient, url: str, target: Path, magic: bytes, progress: Progress
) -> None:
    have, headers = _resumable(target)
    async with client.stream("GET", url, headers=headers) as answer:
        _check_answer(answer, url)
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            discard(target)
            raise _Interrupted("the part that was there does not fit the file")
        start, total = _extent(answer, have)
        check_space(target.parent, (total or 0) - start)
        _remember(target, answer)
        step = f"downloading {_file_name(url)}"
        with target.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.truncate()
            await _write(answer, file, magic, lambda done: progress(step, done, total))
            done = file.tell()
            os.fsync(file.fileno())
    if total is not None and done != total:
        raise _Interrupted(f"it broke off after {done} of {total} bytes")


async def _write(answer, file, magic, progress) -> None:
    async for chunk in answer.aiter_raw():
        file.write(chunk)
