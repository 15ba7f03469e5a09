"""What loading and use of a model measured outlives the server."""

from pathlib import Path

import msgspec

from appliance.domain.models import ModelFile
from plugins.providers.llama_cpp.protocol.messages import Ready
from plugins.providers.llama_cpp.supervision.engine_types import LoadResult
from plugins.providers.llama_cpp.supervision.load_profiles import LoadProfiles
from plugins.providers.llama_cpp.supervision.options import Options
from tests.support.llama_provider import ListedModels, complete, provider_for, request
from tests.support.polling import until
from tests.support.tiny_gguf import write_tiny_gguf


async def test_speed_when_loading_could_not_measure_it_then_that_of_use_is_kept(tmp_path: Path):
    source = ListedModels({"tiny": write_tiny_gguf(tmp_path / "tiny.gguf")})
    (file,) = await source.list()
    profiles = LoadProfiles(source, Options())
    await profiles.record(_busy_load(file))
    for speed in (30.0, 40.0):
        await profiles.record_speed(file, speed)
    await profiles.record(_busy_load(file))
    restarted = await LoadProfiles(source, Options()).find(file)
    assert restarted is not None
    assert restarted.decode_tokens_per_second == 30.0


async def test_speed_when_it_was_measured_in_use_then_known_before_the_next_load(tmp_path: Path):
    files = {"tiny": write_tiny_gguf(tmp_path / "tiny.gguf")}
    provider, source = provider_for(tmp_path, files, threads=1)
    await provider.load("tiny")
    (file,) = await source.list()
    await until(lambda: "tiny" in source.probes)
    profile = msgspec.structs.replace(source.probes["tiny"], decode_tokens_per_second=None)
    await provider.pool.load_profiles.store(file, profile)
    await complete(provider, request("measure", max_tokens=40))
    await provider.close()
    restarted, other = provider_for(tmp_path, files, threads=1)
    other.probes = source.probes
    (info,) = await restarted.models()
    await restarted.close()
    assert info.decode_tokens_per_second


def _busy_load(file: ModelFile) -> LoadResult:
    """A load during which other processes kept the CPU busy: no speed was measured."""
    return LoadResult(file, Ready(512, 512, 4, 1), memory_bytes=1, seconds=1.0)
