"""A run over one channel, with a real agent."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.execution import (
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    OutputStream,
    RunRequest,
    RunResult,
    SandboxFile,
)
from appliance.errors import InvalidInput, SandboxUnavailable
from plugins._shared.guest.frames import FrameDecoder, encode_run_input
from plugins._shared.guest.results import build_result
from plugins._shared.guest.run import GuestRun
from plugins._shared.stage.job import encode_job
from tests.support.guest_agent import AgentProcess
from tests.support.polling import until
from tests.support.sandbox import RecordingWatcher, count_descriptors, find_host_processes

pytest_plugins = ["tests.support.sandbox_fixtures"]

_ISOLATION = Isolation("test", IsolationLevel.GVISOR, ())
_GENEROUS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)


@pytest.fixture
def agent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real agent that waits for its job."""
    if os.geteuid() == 0:
        home: Path = request.getfixturevalue("ordinary_home")
        python, folder = home / "python", home / f"agent-{request.node.name[:80]}"
        folder.mkdir(mode=0o755)
    else:
        python = request.getfixturevalue("sandbox_python")
        folder = tmp_path_factory.mktemp("agent")
    started = AgentProcess(python, folder)
    yield started
    started.kill()
    started.process.wait(30)
    started.ours.close()


def _python(code: str, **more: Any) -> RunRequest:
    more.setdefault("limits", _GENEROUS)
    return RunRequest(("python", "-c", code), **more)


def _job(request: RunRequest) -> Iterator[bytes]:
    return encode_job(request, own_user=True, watch_memory=False)


async def _play(agent: AgentProcess, request: RunRequest, watcher: Any = None) -> RunResult:
    run = GuestRun(agent, *agent.ends, request, watcher)
    await run.execute(_job(request))
    assert agent.process.returncode is not None
    return build_result(run, _ISOLATION, lambda: SandboxUnavailable("never started"))


async def test_run_with_files_input_and_artifacts_comes_back_whole(agent: AgentProcess):
    code = (
        "import sys, given; print(given.word, sys.stdin.read()); "
        "print('e', file=sys.stderr); open('made.bin', 'wb').write(bytes(range(256)) * 1024); "
        "sys.exit(7)"
    )
    request = _python(
        code,
        files=(SandboxFile("given.py", b"word = 'hello'"),),
        stdin=b"you" * 50_000,
        artifacts=("*.bin",),
        env={"PYTHONPATH": "/workspace"},
    )
    watcher = RecordingWatcher()

    outcome = await _play(agent, request, watcher)

    assert (outcome.reason, outcome.exit_code) == (EndReason.EXITED, 7)
    assert outcome.stdout == b"hello " + b"you" * 50_000 + b"\n"
    assert outcome.stderr == b"e\n"
    assert outcome.artifacts == (SandboxFile("made.bin", bytes(range(256)) * 1024),)
    assert watcher.events[0] == "started"
    assert watcher.joined(OutputStream.STDERR) == b"e\n"


async def test_program_sees_no_channel_and_no_agent(agent: AgentProcess):
    code = (
        "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))); "
        "print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit())); "
        "print(os.listdir('/proc/1'), os.getpid())"
    )

    outcome = await _play(agent, _python(code))

    descriptors, processes, first = outcome.stdout.decode().splitlines()
    assert descriptors in ("[0, 1, 2]", "[0, 1, 2, 3]")
    assert processes == "[1, 2]"
    assert first == "[] 2"


async def test_input_that_is_never_read_does_not_hold_up_the_end(agent: AgentProcess):
    request = _python("print('done')", stdin=bytes(8 << 20))

    outcome = await _play(agent, request)

    assert (outcome.stdout, outcome.exit_code) == (b"done\n", 0)


async def test_output_beyond_the_limit_ends_the_run(agent: AgentProcess):
    limits = Limits(wall_s=60.0, output_kept_bytes=1000, output_killed_bytes=1 << 20)

    outcome = await _play(agent, _python("while True: print('x' * 1000)", limits=limits))

    assert outcome.reason is EndReason.OUTPUT
    assert outcome.output_truncated


async def test_run_beyond_its_time_is_killed(agent: AgentProcess):
    request = _python("print('a', flush=True); import time; time.sleep(600)", limits=Limits(1.0))

    outcome = await _play(agent, request)

    assert (outcome.reason, outcome.stdout) == (EndReason.WALL_TIME, b"a\n")


async def test_cancelling_ends_the_guest(agent: AgentProcess):
    before = count_descriptors()
    watcher = RecordingWatcher()
    playing = asyncio.create_task(_play(agent, _python("import time; time.sleep(600)"), watcher))
    await until(lambda: watcher.events)

    playing.cancel()

    with pytest.raises(asyncio.CancelledError):
        await playing
    assert agent.process.returncode is not None
    assert count_descriptors() < before  # the pair of the channel


async def test_file_that_can_not_be_written_is_the_callers_fault(agent: AgentProcess):
    request = _python("1", files=(SandboxFile("a", b""), SandboxFile("a", b"")))

    with pytest.raises(InvalidInput, match="File exists"):
        await _play(agent, request)


async def test_agent_whose_reader_is_slow_waits_and_loses_nothing(agent: AgentProcess):
    size = 4 << 20
    kinds: dict[bytes, int] = {}
    frames = FrameDecoder(lambda kind, data: kinds.update({kind: kinds.get(kind, 0) + len(data)}))
    agent.ours.settimeout(60)
    request = _python(f"print('x' * {size}, end='')")
    for piece in encode_run_input(_job(request), b""):
        await asyncio.to_thread(agent.ours.sendall, piece)

    while not frames.ended:
        await asyncio.sleep(0)
        frames.feed(await asyncio.to_thread(agent.ours.recv, 10_000))

    assert kinds[b"O"] == size
    assert not frames.malformed


async def test_agent_ends_by_itself_when_the_service_is_gone(agent: AgentProcess):
    mark = f"mark={secrets.token_hex(8)!r}"
    request = _python(f"{mark}; import time; time.sleep(600)")
    for piece in encode_run_input(_job(request), b""):
        agent.ours.sendall(piece)
    await asyncio.to_thread(agent.ours.recv, 1)

    agent.ours.close()

    await asyncio.to_thread(agent.process.wait, 30)
    assert not find_host_processes(mark)
