"""Load profiles: what loading a model measured, stored with the model's record.

A profile holds for one combination of file, llama.cpp build, CPUs and settings; its key
is a hash of them. A load under other circumstances ignores it and replaces it.
"""

import hashlib
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import msgspec
import structlog
from msgspec import structs

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import ApplianceError
from appliance.spi import host
from appliance.spi.registry import ModelSource
from plugins.providers.llama_cpp.supervision.engine_types import LoadResult
from plugins.providers.llama_cpp.supervision.options import Options

_log = structlog.get_logger()
_TYPICAL_BYTES_PER_S = 100e6
_TYPICAL_START_S = 2.0


class LoadProfiles:
    """The load profiles of the registered models, each read once from the store."""

    def __init__(self, source: ModelSource, options: Options) -> None:
        self._source, self._options = source, options
        self._build_id = _llama_cpp_build_id()
        self._cache: dict[str, tuple[str, ModelProbe | None]] = {}

    async def find(self, file: ModelFile) -> ModelProbe | None:
        """The profile that holds for this file on this machine with these settings."""
        key = self._key(file)
        entry = self._cache.get(file.alias)
        if entry is None or entry[0] != key:
            stored = await self._source.probe(file.alias)
            entry = key, stored if stored is not None and stored.key == key else None
            self._cache[file.alias] = entry
        return entry[1]

    async def record(self, result: LoadResult) -> None:
        """Store the profile of a load; speeds not measured this time keep their last value."""
        file, ready = result.file, result.ready
        last = await self.find(file)
        profile = ModelProbe(
            key=self._key(file),
            threads=ready.threads,
            chunk=ready.chunk,
            prefill_tokens_per_second=ready.prefill_tokens_per_second
            or (last.prefill_tokens_per_second if last else None),
            decode_tokens_per_second=ready.decode_tokens_per_second
            or (last.decode_tokens_per_second if last else None),
            memory_bytes=result.memory_bytes,
            load_seconds=result.seconds,
            measured_at=time.time(),
            row_costs=ready.row_costs or (last.row_costs if last else ()),
        )
        await self.store(file, profile)

    async def record_speed(self, file: ModelFile, tokens_per_second: float) -> None:
        """Store a decode speed that was measured in use, if loading could not measure one."""
        last = await self.find(file)
        if last is not None and last.decode_tokens_per_second is None:
            await self.store(
                file, structs.replace(last, decode_tokens_per_second=tokens_per_second)
            )

    async def store(self, file: ModelFile, profile: ModelProbe) -> None:
        """Keep a profile for the next start; a failure is logged."""
        self._cache[file.alias] = profile.key, profile
        try:
            await self._source.store_probe(file.alias, profile)
        except ApplianceError as error:
            _log.warning("probe not kept", model=file.alias, reason=error.message)

    async def estimate_load_s(self, file: ModelFile) -> float:
        """How long loading will take, by the last load or by the file's size."""
        last = await self.find(file)
        return last.load_seconds if last else _TYPICAL_START_S + file.size / _TYPICAL_BYTES_PER_S

    def _key(self, file: ModelFile) -> str:
        options = self._options
        facts = (
            file.sha256, file.size, self._build_id, host.usable_cpus(), options.threads,
            options.context_tokens, options.max_sequences, options.gpu_layers,
        )  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _llama_cpp_build_id() -> str:
    """The package's version and the size of its library, which differs between builds."""
    try:
        name = version("llama-cpp-python")
    except PackageNotFoundError:
        name = "unknown"
    spec = find_spec("llama_cpp")
    folders = [Path(each) for each in (spec and spec.submodule_search_locations) or ()]
    sizes = [path.stat().st_size for each in folders for path in each.glob("lib/libllama.so")]
    return f"{name} {sizes}"
