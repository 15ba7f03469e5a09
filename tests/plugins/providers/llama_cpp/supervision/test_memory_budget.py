"""Several models within one memory budget: reservations, idle unloading, load profiles."""

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from appliance.domain.models import ModelState
from appliance.errors import ModelUnavailable
from plugins.providers.llama_cpp.host.process_memory import ResidentMemory
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from tests.support.llama_provider import ListedModels, complete, provider_for, request, until_gone
from tests.support.polling import until
from tests.support.tiny_gguf import write_tiny_gguf

# Room for one tiny model to load beside nothing else: the program takes most of it.
ONE_MODEL_MIB = 230
MIB = 1024 * 1024


@asynccontextmanager
async def _open_provider(
    folder: Path, *aliases: str, **settings: Any
) -> AsyncGenerator[tuple[LlamaCppProvider, ListedModels]]:
    files = {alias: write_tiny_gguf(folder / f"{alias}.gguf") for alias in aliases}
    made = provider_for(folder, files, threads=1, **settings)
    try:
        yield made
    finally:
        await made[0].close()


async def _states(provider: LlamaCppProvider) -> dict[str, ModelState]:
    return {info.name: info.state for info in await provider.models()}


async def _until(provider: LlamaCppProvider, model: str, state: ModelState) -> None:
    async def has_state() -> bool:
        return (await _states(provider))[model] is state

    await until(has_state, 30)


async def test_load_when_memory_is_enough_then_several_models_are_ready_at_once(tmp_path: Path):
    async with _open_provider(tmp_path, "a", "b") as (provider, _):
        await provider.load("a")
        await provider.load("b")
        assert set((await _states(provider)).values()) == {ModelState.READY}


async def test_load_when_memory_is_short_then_the_longest_idle_goes(tmp_path: Path):
    async with _open_provider(tmp_path, "a", "b", "c", memory_mib=2 * ONE_MODEL_MIB) as (
        provider,
        models,
    ):
        for alias in ("a", "b"):
            await provider.load(alias)
        await complete(provider, request("x", model="a"))
        # As if each took almost half of the memory.
        for alias in ("a", "b", "c"):
            _hold(provider, alias, 220 * MIB)
        await provider.load("c")
        states = await _states(provider)
        assert (states["a"], states["b"], states["c"]) == (
            ModelState.READY,
            ModelState.UNLOADED,
            ModelState.READY,
        )
    assert set(models.probes) == {"a", "b", "c"}


async def test_load_when_others_are_at_work_then_refused_with_the_figures(tmp_path: Path):
    async with _open_provider(tmp_path, "a", "b", memory_mib=ONE_MODEL_MIB) as (provider, _):
        stream = provider.stream(request("x", model="a", max_tokens=400))
        await anext(stream)
        with pytest.raises(ModelUnavailable, match="in use") as caught:
            await provider.load("b")
        assert "MiB" in caught.value.message
        assert "models.memory_mib" in caught.value.message
        details = caught.value.details
        assert details["needed_bytes"] > details["free_bytes"] >= 0
        assert (await _states(provider))["a"] is ModelState.READY
        await stream.aclose()
        await provider.load("b")
        assert await _states(provider) == {"a": ModelState.UNLOADED, "b": ModelState.READY}


async def test_load_when_model_can_never_fit_then_says_what_is_needed_and_unloads_nobody(
    tmp_path: Path,
):
    async with _open_provider(tmp_path, "a", "b", memory_mib=ONE_MODEL_MIB) as (provider, models):
        await provider.load("a")
        with models.files["b"].open("r+b") as file:
            file.truncate(500 * MIB)
        with pytest.raises(ModelUnavailable, match=r"needs \d+ MiB of memory, \d+ MiB"):
            await provider.load("b")
        assert (await _states(provider))["a"] is ModelState.READY


async def test_request_when_model_was_unloaded_for_another_then_it_is_loaded_again(
    tmp_path: Path,
):
    async with _open_provider(tmp_path, "a", "b", memory_mib=ONE_MODEL_MIB) as (provider, _):
        for alias in ("a", "b", "a", "b"):
            _, finished = await complete(provider, request("x", model=alias))
            assert finished.usage.completion_tokens == 8


async def test_idle_when_nobody_asks_for_long_then_unloaded_and_loaded_again_on_demand(
    tmp_path: Path,
):
    async with _open_provider(tmp_path, "a", idle_unload_s=0.3) as (provider, _):
        await provider.load("a")
        pid = provider.engine_pid("a")
        assert pid is not None
        await until_gone(pid)
        await _until(provider, "a", ModelState.UNLOADED)
        assert (await provider.models())[0].restartable
        _, finished = await complete(provider, request("x", model="a"))
        assert finished.usage.completion_tokens == 8


async def test_idle_when_a_stream_is_open_then_model_stays(tmp_path: Path):
    async with _open_provider(tmp_path, "a", idle_unload_s=0.1) as (provider, _):
        stream = provider.stream(request("x", model="a", max_tokens=400))
        await anext(stream)
        pid = provider.engine_pid("a")
        await asyncio.sleep(0.4)  # it must not be unloaded
        assert provider.engine_pid("a") == pid
        await stream.aclose()
        await _until(provider, "a", ModelState.UNLOADED)


async def test_request_when_loading_is_slow_then_retry_after_and_loading_goes_on(
    tmp_path: Path,
):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    files = {"a": write_tiny_gguf(tmp_path / "a.gguf")}
    provider, _ = provider_for(
        tmp_path, files, child_argv=lambda _: sleeper, load_wait_s=0.2, load_timeout_s=60
    )
    try:
        with pytest.raises(ModelUnavailable, match="being loaded") as caught:
            await complete(provider, request("x", model="a"))
        assert caught.value.retry_after is not None
        assert caught.value.retry_after >= 1
        assert await _states(provider) == {"a": ModelState.LOADING}
    finally:
        await provider.close()


async def test_probe_when_model_is_first_loaded_then_kept_and_known_before_the_next_use(
    tmp_path: Path,
):
    async with _open_provider(tmp_path, "a") as (provider, models):
        (before,) = await provider.models()
        assert before.decode_tokens_per_second is None
        await provider.load("a")
    probe = structs.replace(models.probes["a"], decode_tokens_per_second=45.5)
    assert (probe.threads, probe.chunk > 0, probe.load_seconds > 0) == (1, True, True)
    async with _open_provider(tmp_path, "a") as (provider, models):
        models.probes["a"] = probe
        (info,) = await provider.models()
    assert info.state is ModelState.UNLOADED
    assert info.decode_tokens_per_second == 45.5
    assert info.memory_bytes == probe.memory_bytes > MIB


async def test_probe_when_kept_for_the_same_file_then_not_measured_again(tmp_path: Path):
    async with _open_provider(tmp_path, "a") as (provider, models):
        await provider.load("a")
    speeds = {"prefill_tokens_per_second": 900.0, "decode_tokens_per_second": 45.5}
    first = structs.replace(models.probes["a"], chunk=32, row_costs=(1.0, 2.5), **speeds)
    async with _open_provider(tmp_path, "a") as (provider, models):
        models.probes["a"] = first
        await provider.load("a")
    again = models.probes["a"]
    assert again.measured_at > first.measured_at
    assert (again.key, again.chunk, again.row_costs) == (first.key, 32, (1.0, 2.5))
    assert again.decode_tokens_per_second == 45.5


async def test_probe_when_settings_change_then_another_key(tmp_path: Path):
    async with _open_provider(tmp_path, "a") as (provider, models):
        await provider.load("a")
    first = models.probes["a"]
    first = structs.replace(first, decode_tokens_per_second=45.5)
    async with _open_provider(tmp_path, "a", context_tokens=256) as (provider, models):
        models.probes["a"] = first
        (info,) = await provider.models()
        assert info.decode_tokens_per_second is None


def _hold(provider: LlamaCppProvider, alias: str, count: int) -> None:
    slot = provider.pool.find_slot(alias)
    if slot is not None:
        slot.supervisor.resident = ResidentMemory(own=count)
