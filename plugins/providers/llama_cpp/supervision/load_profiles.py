"""What loading measured, kept with a model's record and good for the same circumstances only."""

import hashlib
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import structlog

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import ApplianceError
from appliance.spi.registry import ModelSource
from plugins.providers.llama_cpp.host import host_resources
from plugins.providers.llama_cpp.supervision.options import Options

if TYPE_CHECKING:
    from plugins.providers.llama_cpp.supervision.engine_types import Loaded

_log = structlog.get_logger()
_USUAL_BYTES_PER_S = 100e6
_USUAL_START_S = 2.0


class Records:
    """The records of the registered models, each read once from the store."""

    def __init__(self, source: ModelSource, options: Options) -> None:
        self._source, self._options = source, options
        self._library = _library()
        self._known: dict[str, tuple[str, ModelProbe | None]] = {}

    async def of(self, file: ModelFile) -> ModelProbe | None:
        """What holds for this file on this machine with these settings, if it was measured."""
        key = self._key(file)
        known = self._known.get(file.alias)
        if known is None or known[0] != key:
            found = await self._source.probe(file.alias)
            known = key, found if found is not None and found.key == key else None
            self._known[file.alias] = known
        return known[1]

    async def keep(self, loaded: "Loaded") -> None:
        """After a load; speeds that were not measured now stay those of the last time."""
        file, ready = loaded.file, loaded.ready
        last = await self.of(file)
        probe = ModelProbe(
            key=self._key(file),
            threads=ready.threads,
            chunk=ready.chunk,
            prefill_tokens_per_second=ready.prefill_tokens_per_second
            or (last.prefill_tokens_per_second if last else None),
            decode_tokens_per_second=ready.decode_tokens_per_second
            or (last.decode_tokens_per_second if last else None),
            memory_bytes=loaded.memory_bytes,
            load_seconds=loaded.seconds,
            measured_at=time.time(),
            row_costs=ready.row_costs or (last.row_costs if last else ()),
        )
        self._known[file.alias] = probe.key, probe
        try:
            await self._source.keep_probe(file.alias, probe)
        except ApplianceError as error:
            _log.warning("probe not kept", model=file.alias, reason=error.message)

    async def expected_load_s(self, file: ModelFile) -> float:
        """How long loading took last time, or will by the file's size."""
        last = await self.of(file)
        return last.load_seconds if last else _USUAL_START_S + file.size / _USUAL_BYTES_PER_S

    def _key(self, file: ModelFile) -> str:
        options = self._options
        facts = (
            file.sha256, file.size, self._library, host_resources.usable_cpus(), options.threads,
            options.context_tokens, options.max_sequences, options.gpu_layers,
        )  # fmt: skip
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _library() -> str:
    """Which llama.cpp this is: the version, and the size of what was built of it."""
    try:
        name = version("llama-cpp-python")
    except PackageNotFoundError:
        name = "unknown"
    spec = find_spec("llama_cpp")
    folders = [Path(each) for each in (spec and spec.submodule_search_locations) or ()]
    built = [path.stat().st_size for each in folders for path in each.glob("lib/libllama.so")]
    return f"{name} {built}"
