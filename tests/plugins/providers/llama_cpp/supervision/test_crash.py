"""Engines that can't load, hang, crash or are killed: clear errors, and the next request works."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.domain.messages import Finished, TextDelta
from appliance.domain.models import ModelState
from appliance.errors import ModelUnavailable, ProviderFailed
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.supervision import supervisor
from tests.support.llama_provider import (
    ListedModels,
    complete,
    provider_for,
    record_submissions,
    request,
    until_gone,
)
from tests.support.polling import until
from tests.support.tiny_gguf import write_tiny_gguf

CONTEXT = 32768
_ROOT = Path(__file__).resolve().parents[5]


@pytest.fixture
async def provider_and_models(
    tmp_path: Path,
) -> AsyncIterator[tuple[LlamaCppProvider, ListedModels]]:
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf", context_tokens=CONTEXT)
    made = provider_for(tmp_path, {"tiny": tiny}, threads=1)
    yield made
    await made[0].close()


def _pid(provider: LlamaCppProvider) -> int:
    pid = provider.engine_pid("tiny")
    assert pid is not None
    return pid


async def _ended(provider: LlamaCppProvider) -> None:
    """The end is noticed, and whether the engine can be started again is decided."""

    await until(lambda: provider.engine_pid("tiny") is None)


async def _fails(provider: LlamaCppProvider) -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        await complete(provider, request("x"))
    return caught.value


async def test_engine_when_killed_mid_stream_then_stream_fails_and_next_request_works(
    provider_and_models: tuple[LlamaCppProvider, ListedModels],
):
    provider, _ = provider_and_models
    stream = provider.stream(request("x", max_tokens=20000))
    while not isinstance(await anext(stream), TextDelta):
        pass
    first = _pid(provider)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(ProviderFailed, match="SIGKILL"):
        async for _ in stream:
            pass
    _, finished = await complete(provider, request("next"))
    assert finished.usage.completion_tokens == 8
    assert _pid(provider) != first


async def test_engine_when_killed_before_any_text_then_request_is_tried_again(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], monkeypatch: pytest.MonkeyPatch
):
    submitted = record_submissions(monkeypatch)
    provider, _ = provider_and_models
    await provider.load("tiny")
    pid = _pid(provider)
    os.kill(pid, signal.SIGSTOP)
    count = asyncio.create_task(provider.count_tokens(request("counted")))
    answers = [asyncio.create_task(complete(provider, request(f"q{at}"))) for at in range(4)]
    await until(lambda: len(submitted) == 4)
    os.kill(pid, signal.SIGKILL)
    assert await count > 0
    finished = [last for _, last in await asyncio.gather(*answers)]
    assert [last.usage.completion_tokens for last in finished] == [8] * 4


async def test_engine_when_killed_again_and_again_then_backs_off_with_the_reason(
    provider_and_models: tuple[LlamaCppProvider, ListedModels],
):
    provider, _ = provider_and_models
    restartable: list[bool] = []
    for _ in range(2):
        await provider.load("tiny")
        pid = _pid(provider)
        os.kill(pid, signal.SIGKILL)
        await until_gone(pid)
        await _ended(provider)
        restartable.append((await provider.models())[0].restartable)
    assert restartable == [True, False]
    error = await _fails(provider)
    assert error.retry_after is not None
    assert "SIGKILL" in error.message
    assert "memory" in error.message
    (info,) = await provider.models()
    assert (info.state, info.problem != "") == (ModelState.FAILED, True)


async def test_engine_when_it_hangs_then_ended_and_what_it_ran_is_not_tried_again(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], monkeypatch: pytest.MonkeyPatch
):
    """F61: the request may be what the engine hung at; others start the engine again."""
    provider, _ = provider_and_models
    await provider.load("tiny")
    first = _pid(provider)
    submitted = record_submissions(monkeypatch)
    monkeypatch.setattr(supervisor, "_STALL_S", 0.5)
    monkeypatch.setattr(supervisor, "_STALL_CHECK_S", 0.1)
    os.kill(first, signal.SIGSTOP)
    answer = asyncio.create_task(complete(provider, request("x")))
    await until_gone(first)
    with pytest.raises(ProviderFailed, match="no progress") as caught:
        await answer
    assert (caught.value.details["stalled"], caught.value.details["retryable"]) == (True, False)
    assert len(submitted) == 1
    monkeypatch.undo()
    await complete(provider, request("y"))
    assert _pid(provider) != first


async def test_close_when_stream_is_open_then_it_fails_and_no_child_is_left(
    provider_and_models: tuple[LlamaCppProvider, ListedModels],
):
    provider, _ = provider_and_models
    stream = provider.stream(request("x", max_tokens=20000))
    await anext(stream)
    pid = _pid(provider)
    await provider.close()
    with pytest.raises(ProviderFailed):
        async for _ in stream:
            pass
    await until_gone(pid)


async def test_close_when_engine_still_loads_then_no_child_is_left(tmp_path: Path):
    written = tmp_path / "pid"
    code = (
        "import os, pathlib, time\n"
        f"pathlib.Path({str(tmp_path)!r}, 'new').write_text(str(os.getpid()))\n"
        f"os.rename({str(tmp_path / 'new')!r}, {str(written)!r})\n"
        "time.sleep(600)\n"
    )
    sleeper = [sys.executable, "-c", code]
    provider, _ = provider_for(
        tmp_path, {"tiny": tmp_path / "any.gguf"}, child_argv=lambda _: sleeper
    )
    loading = asyncio.create_task(complete(provider, request("x")))
    await until(written.exists)
    await provider.close()
    with pytest.raises((ModelUnavailable, ProviderFailed)):
        await loading
    await until_gone(int(written.read_text()))


@pytest.mark.parametrize("kept", [0, 3, 100, 5_000, 200_000])
async def test_load_when_file_is_truncated_then_unavailable_with_the_reason(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], kept: int
):
    provider, models = provider_and_models
    path = models.files["tiny"]
    path.write_bytes(path.read_bytes()[:kept])
    error = await _fails(provider)
    assert "can't be served" in error.message
    assert str(path.parent) not in error.message


async def test_load_when_file_is_garbage_or_missing_then_unavailable(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], tmp_path: Path
):
    provider, models = provider_and_models
    garbage = tmp_path / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + os.urandom(4096))
    for path in (garbage, tmp_path / "missing.gguf", tmp_path):
        models.files["tiny"] = path
        await _fails(provider)


async def test_load_when_file_is_replaced_by_a_good_one_then_works_at_once(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], tmp_path: Path
):
    provider, models = provider_and_models
    good = models.files["tiny"]
    models.files["tiny"] = tmp_path / "missing.gguf"
    await _fails(provider)
    await _fails(provider)
    models.files["tiny"] = good
    await complete(provider, request("x"))


async def test_models_when_alias_is_removed_then_its_engine_ends_after_its_last_stream(
    provider_and_models: tuple[LlamaCppProvider, ListedModels],
):
    provider, models = provider_and_models
    stream = provider.stream(request("x", max_tokens=500))
    await anext(stream)
    pid = _pid(provider)
    models.files.clear()
    assert not await provider.models()
    events = [event async for event in stream]
    assert isinstance(events[-1], Finished)
    await until_gone(pid)


async def test_load_when_architecture_is_unknown_then_says_so(tmp_path: Path):
    path = write_tiny_gguf(tmp_path / "odd.gguf", architecture="nonesuch")
    provider, _ = provider_for(tmp_path, {"tiny": path})
    assert "nonesuch" in (await _fails(provider)).message
    await provider.close()


async def test_load_when_engine_aborts_then_unavailable_with_signal_and_last_words(
    tmp_path: Path,
):
    code = "import os,sys; print('/a/b/x.cpp:1: BAD', file=sys.stderr, flush=True); os.abort()"
    provider, _ = provider_for(
        tmp_path, {"tiny": tmp_path / "any"}, child_argv=lambda _: [sys.executable, "-c", code]
    )
    error = await _fails(provider)
    assert "SIGABRT" in error.message
    assert "(last errors: x.cpp:1: BAD)" in error.message
    again = await _fails(provider)
    assert again.retry_after is not None
    await provider.close()


async def test_load_when_engine_never_answers_then_deadline_and_no_child_is_left(
    tmp_path: Path,
):
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    provider, _ = provider_for(
        tmp_path, {"tiny": tmp_path / "any"}, child_argv=lambda _: sleeper, load_timeout_s=0.5
    )
    assert "load_timeout_s" in (await _fails(provider)).message
    assert provider.engine_pid("tiny") is None
    await provider.close()


async def test_load_when_program_does_not_exist_then_unavailable(tmp_path: Path):
    provider, _ = provider_for(
        tmp_path, {"tiny": tmp_path / "any"}, child_argv=lambda _: [str(tmp_path / "none")]
    )
    assert "can't be started" in (await _fails(provider)).message
    await provider.close()


async def test_engine_when_server_has_open_files_then_it_inherits_none(
    provider_and_models: tuple[LlamaCppProvider, ListedModels], tmp_path: Path
):
    provider, _ = provider_and_models
    secret = tmp_path / "secret"
    with secret.open("w") as open_file:
        os.set_inheritable(open_file.fileno(), True)
        await provider.load("tiny")
        targets = _open_files(_pid(provider))
    assert targets
    assert str(secret) not in targets


async def test_engine_when_server_is_killed_then_it_dies_too(tmp_path: Path):
    path = write_tiny_gguf(tmp_path / "tiny.gguf")
    code = (
        "import asyncio, sys, pathlib\n"
        "from tests.support.llama_provider import provider_for\n"
        "async def main():\n"
        "    folder, model = map(pathlib.Path, sys.argv[1:])\n"
        "    provider, _ = provider_for(folder, {'tiny': model})\n"
        "    await provider.load('tiny')\n"
        "    print(provider.engine_pid('tiny'), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", code, str(tmp_path), str(path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=_ROOT,
    )
    assert server.stdout is not None
    pid = int(await server.stdout.readline())
    server.kill()
    await server.wait()
    await until_gone(pid)


def _open_files(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
