"""Guests whose agent the program has taken over, in the real gVisor; and many of them at once."""

import asyncio
import resource
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from appliance.domain.execution import EndReason, Limits, OutputStream, RunRequest, RunResult
from appliance.errors import SandboxUnavailable
from plugins._shared.guest.run import GuestRun
from plugins.sandboxes.gvisor import bundle
from plugins.sandboxes.gvisor.backend import GVisor
from tests.support.gvisor import entry_names, gvisor, runsc
from tests.support.hostile_agent import hostile_files
from tests.support.polling import until
from tests.support.sandbox import (
    GENEROUS,
    RecordingWatcher,
    count_descriptors,
    find_host_processes,
    run_python,
)

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_MAX_GROWTH_KIB = 96 << 10
_SLEEP = RunRequest(("sleep", "600"), limits=GENEROUS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime_dir() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend(sandbox_python: Path, runtime_dir: Path) -> AsyncIterator[GVisor]:
    """Its agents behave until a job names an attack."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "agent_files", hostile_files)
        started = gvisor(sandbox_python, runtime_dir, runsc())
        status = await started.probe()
        assert status.available, status
    yield started
    await started.close()
    assert not entry_names(runtime_dir)


async def _attack(backend: GVisor, name: str) -> RunResult:
    """The result; the server must keep little of what it receives, and leak nothing."""
    before = count_descriptors()
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    request = RunRequest(("true", f"attack:{name}!"), limits=Limits(wall_s=4.0, cpu_s=4.0))
    try:
        return await backend.run(request)
    finally:
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < _MAX_GROWTH_KIB
        assert count_descriptors() == before


@pytest.mark.parametrize("name", ["largest frame", "unknown kind", "endless starts"])
async def test_agent_that_sends_malformed_frames_is_ended(backend: GVisor, name: str):
    result = await _attack(backend, name)

    assert (result.reason, result.signal) == (EndReason.SIGNALLED, 9)
    assert "malformed report" in result.artifacts_refused[0]


@pytest.mark.parametrize("name", ["largest report", "endless refusals", "endless artifacts"])
async def test_agent_that_sends_on_after_the_program_ended_gets_no_artifacts_out(
    backend: GVisor, name: str
):
    result = await _attack(backend, name)

    assert (result.reason, result.exit_code) == (EndReason.EXITED, 0)
    assert not result.artifacts
    assert "malformed report" in result.artifacts_refused[0]


async def test_run_when_the_agent_sends_frames_after_its_end_then_unchanged(backend: GVisor):
    result = await _attack(backend, "frame after the end")

    assert (result.reason, result.exit_code, result.stdout) == (EndReason.EXITED, 0, b"")


async def test_agent_that_writes_without_end_is_held_to_the_limit_of_output(backend: GVisor):
    assert (await _attack(backend, "endless output")).reason is EndReason.OUTPUT


async def test_agent_that_never_ends_is_ended_when_collecting_took_too_long(
    backend: GVisor, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("plugins._shared.guest.run._COLLECT_S", 0.5)

    result = await _attack(backend, "no end")

    assert result.exit_code == 0
    assert result.artifacts_refused == ("the remaining artifacts: collecting them took too long",)


@pytest.mark.parametrize("name", ["no frame", "end without a start"])
async def test_agent_that_never_begins_is_given_up(
    backend: GVisor, name: str, monkeypatch: pytest.MonkeyPatch
):
    defaults = GuestRun.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "setup_timeout_s", 1.5)

    with pytest.raises(SandboxUnavailable, match="not set up within"):
        await _attack(backend, name)


async def test_agent_that_is_gone_is_a_failure_of_the_sandbox(backend: GVisor):
    with pytest.raises(SandboxUnavailable, match="could not be set up"):
        await _attack(backend, "gone")


class _Counting:
    """Implements appliance.spi.sandbox.RunWatcher."""

    def __init__(self) -> None:
        self.pieces = 0

    def started(self) -> None: ...

    def output(self, stream: OutputStream, data: bytes) -> None:
        del stream
        self.pieces += bool(data)


async def test_agent_that_writes_in_single_bytes_is_ended_and_its_watcher_told_of_many_at_once(
    backend: GVisor,
):
    watcher = _Counting()
    limits = Limits(wall_s=2.0, output_killed_bytes=100_000)
    request = RunRequest(("true", "attack:output in single bytes!"), limits=limits)

    result = await backend.run_watched(request, watcher)

    assert result.reason in (EndReason.OUTPUT, EndReason.WALL_TIME)
    assert watcher.pieces < 10_000
    assert len(result.stderr) < 200_000


async def test_many_at_once_that_are_cancelled_at_any_moment_leave_nothing(
    backend: GVisor, runtime_dir: Path
):
    kept, before = entry_names(runtime_dir / "gvisor"), count_descriptors()
    without_frames = RunRequest(("true", "attack:no frame!"), limits=GENEROUS)
    requests = (_SLEEP, without_frames) * 4
    runs = [asyncio.create_task(backend.run(request)) for request in requests]

    for run in runs:
        await asyncio.sleep(0.15)
        run.cancel()
    ended = await asyncio.gather(*runs, return_exceptions=True)

    assert [type(end) for end in ended] == [asyncio.CancelledError] * len(runs)
    assert entry_names(runtime_dir / "gvisor") == kept
    assert count_descriptors() == before
    assert not find_host_processes(str(runtime_dir))
    assert (await run_python(backend, "print(1)")).ok


async def test_backend_that_is_closed_ends_all_runs_whatever_they_do(
    sandbox_python: Path, tmp_path: Path
):
    closing = gvisor(sandbox_python, tmp_path, runsc())
    assert (await closing.probe()).available
    watchers = [RecordingWatcher() for _ in range(4)]
    runs = [asyncio.create_task(closing.run_watched(_SLEEP, each)) for each in watchers]
    await until(lambda: all(each.events for each in watchers))
    late = [asyncio.create_task(closing.run(_SLEEP)) for _ in range(2)]
    await asyncio.sleep(0)

    await closing.close()
    ended = await asyncio.wait_for(asyncio.gather(*runs, *late, return_exceptions=True), 60)

    for end in ended:
        cancelled = isinstance(end, RunResult) and end.reason is EndReason.CANCELLED
        assert cancelled or isinstance(end, SandboxUnavailable), end
    assert not entry_names(tmp_path)
    assert not find_host_processes(str(tmp_path))
