"""A run over one channel: with a real agent, and with one that is not what it should be."""

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
import sys
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
from plugins._shared.guest import file_count
from plugins._shared.guest.agent import FRAME_BYTES, FRAME_HEADER
from plugins._shared.guest.frames import FrameDecoder, encode_run_input
from plugins._shared.guest.results import build_result
from plugins._shared.guest.run import GuestRun
from plugins._shared.stage import init
from plugins._shared.stage.job import encode_job
from tests.support.guest_agent import AgentProcess
from tests.support.sandbox import count_descriptors, find_host_processes

pytest_plugins = ["tests.support.sandbox_fixtures"]

_ISOLATION = Isolation("test", IsolationLevel.GVISOR, ())
_GENEROUS = Limits(wall_s=60.0, cpu_s=30.0, memory_bytes=1 << 30)


class Watcher:
    """Implements appliance.spi.sandbox.RunWatcher."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def started(self) -> None:
        self.events.append("started")

    def output(self, stream: OutputStream, data: bytes) -> None:
        self.events.append((stream, data))


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
    watcher = Watcher()

    outcome = await _play(agent, request, watcher)

    assert (outcome.reason, outcome.exit_code) == (EndReason.EXITED, 7)
    assert outcome.stdout == b"hello " + b"you" * 50_000 + b"\n"
    assert outcome.stderr == b"e\n"
    assert outcome.artifacts == (SandboxFile("made.bin", bytes(range(256)) * 1024),)
    assert watcher.events[0] == "started"
    assert (OutputStream.STDERR, b"e\n") in watcher.events


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
    playing = asyncio.create_task(_play(agent, _python("import time; time.sleep(600)")))
    await asyncio.sleep(0.2)

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


class FakeGuest:
    """A guest whose agent the test simulates; implements plugins._shared.guest.run.Guest."""

    def __init__(self) -> None:
        self.kills = 0
        self.used_us = 0
        ours, self.theirs = socket.socketpair()
        self.ends = (os.dup(ours.fileno()), ours.detach())

    def kill(self) -> None:
        self.kills += 1
        with contextlib.suppress(OSError):  # closed already
            self.theirs.shutdown(socket.SHUT_RDWR)

    async def end(self) -> None:
        self.kill()

    def cpu_us(self) -> int:
        return self.used_us


def _frame(kind: bytes, payload: bytes = b"") -> bytes:
    return FRAME_HEADER.pack(kind, len(payload)) + payload


def _report_frame(kind: bytes, payload: bytes = b"") -> bytes:
    """A frame of the init process's report, inside one of the agent's."""
    return _frame(b"R", init.FRAME_HEADER.pack(kind, len(payload)) + payload)


_STARTED = _report_frame(b"S")
_ENDED = _report_frame(b"X", init.EXIT_PAYLOAD.pack(init.EXITED, 0, 1000, 10))

_MALFORMED = {
    "noise": bytes(range(256)) * 20,
    "unknown kind": _STARTED + _frame(b"Q", b"x"),
    "empty frame": _STARTED + _frame(b"O"),
    "frame that is too long": _STARTED + FRAME_HEADER.pack(b"O", FRAME_BYTES + 1),
    "largest length": _STARTED + FRAME_HEADER.pack(b"R", 0xFFFFFFFF),
    "end with a content": _STARTED + _frame(b"Z", b"x"),
    "frame after the end": _STARTED + _ENDED + _frame(b"Z") + _frame(b"O", b"x"),
    "unknown kind of report frame": _STARTED + _report_frame(b"?"),
    "two ends": _STARTED + _ENDED + _ENDED,
    "end of the wrong size": _STARTED + _report_frame(b"X", b"123"),
    "artifact of nothing": _STARTED + _ENDED + _report_frame(b"A", b""),
}


async def _run_with_agent_output(output: bytes, limits: Limits = _GENEROUS) -> RunResult:
    guest = FakeGuest()
    request = RunRequest(("sh",), limits=limits)
    run = GuestRun(guest, *guest.ends, request)
    sending = asyncio.create_task(_send_and_close(guest.theirs, output))
    await run.execute([b"job"])
    await sending
    guest.theirs.close()
    assert guest.kills
    return build_result(run, _ISOLATION, lambda: SandboxUnavailable("never started"))


async def _send_and_close(channel: socket.socket, data: bytes) -> None:
    try:
        await _send(channel, data)
        channel.shutdown(socket.SHUT_WR)
    except OSError:
        return  # closed in the middle of a frame


async def _send(channel: socket.socket, data: bytes) -> None:
    channel.setblocking(False)
    await asyncio.get_running_loop().sock_sendall(channel, data)


@pytest.mark.parametrize("output", _MALFORMED.values(), ids=_MALFORMED)
async def test_run_when_the_guest_sends_malformed_frames_then_ended_without_artifacts(
    output: bytes,
):
    outcome = await _run_with_agent_output(output)

    assert not outcome.artifacts
    assert outcome.artifacts_refused == ("all artifacts: the sandbox sent a malformed report",)


async def test_guest_that_ends_before_it_began_is_a_failure_of_the_sandbox():
    with pytest.raises(SandboxUnavailable, match="never started"):
        await _run_with_agent_output(b"")


async def test_guest_that_vanishes_in_the_middle_was_killed():
    outcome = await _run_with_agent_output(_STARTED + _frame(b"O", b"half"))

    assert (outcome.reason, outcome.signal) == (EndReason.SIGNALLED, 9)
    assert outcome.stdout == b"half"


async def test_flood_of_tiny_frames_is_held_to_the_limit_of_output():
    limits = Limits(wall_s=60.0, output_kept_bytes=100, output_killed_bytes=10_000)

    outcome = await _run_with_agent_output(_STARTED + _frame(b"E", b"x") * 20_000, limits)

    assert outcome.reason is EndReason.OUTPUT
    assert len(outcome.stderr) < 200


async def test_names_from_the_guest_are_checked_anew():
    name = b"../../etc/passwd"
    artifact = (0).to_bytes(1, "big") + len(name).to_bytes(2, "big") + name + b"root"

    outcome = await _run_with_agent_output(
        _STARTED + _ENDED + _report_frame(b"A", artifact) + _frame(b"Z")
    )

    assert outcome.exit_code == 0
    assert not outcome.artifacts
    assert "passwd" in outcome.artifacts_refused[0]


async def test_processor_time_beyond_the_limit_by_the_hosts_account_ends_the_run():
    guest = FakeGuest()
    guest.used_us = 500_000
    limits = Limits(wall_s=60.0, cpu_s=2.0)
    run = GuestRun(guest, *guest.ends, RunRequest(("sh",), limits=limits), enforce_cpu_limit=True)
    playing = asyncio.create_task(run.execute([b"job"]))
    await _send(guest.theirs, _STARTED)
    while not run.report.started:
        await asyncio.sleep(0)

    guest.used_us = 2_400_000  # less than the limit since its start
    await asyncio.sleep(0.3)
    assert not guest.kills
    guest.used_us = 2_600_000
    await playing

    outcome = build_result(run, _ISOLATION, lambda: SandboxUnavailable("never started"))
    assert (outcome.reason, outcome.usage.cpu_s) == (EndReason.CPU_TIME, 2.1)
    guest.theirs.close()


def test_frames_cut_anywhere_are_put_together():
    data = _STARTED + _frame(b"O", b"abc") + _ENDED + _frame(b"Z")
    frames_seen: list[tuple[bytes, bytes]] = []
    frames = FrameDecoder(lambda kind, data: frames_seen.append((kind, data)))

    for byte in data:
        frames.feed(bytes([byte]))

    assert frames.ended
    assert not frames.malformed
    assert (b"O", b"abc") in frames_seen
    assert len(frames_seen) == 3


_WITHOUT_PIDFD = """
import errno, os, select, sys
def missing(*_): raise OSError(errno.ENOSYS, "none")
os.pidfd_open = missing
sys.path.insert(0, sys.argv[1])
import pidfd
pidfd.provide()
read_end, write_end = os.pipe()
child = os.fork()
if child == 0:
    os.read(read_end, 1)
    os._exit(5)
handle = os.pidfd_open(child)
assert not select.select([handle], [], [], 0)[0]
os.write(write_end, b"x")
assert select.select([handle], [], [], 30)[0]
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
os.close(handle)
gone = os.fork()
if gone == 0:
    os._exit(0)
os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
assert select.select([os.pidfd_open(gone)], [], [], 30)[0]
print("good")
"""


def test_handle_of_a_child_on_a_kernel_without_one_tells_its_end():
    folder = Path(init.__file__).parents[1] / "guest"
    command = [sys.executable, "-I", "-c", _WITHOUT_PIDFD, str(folder)]

    done = subprocess.run(command, capture_output=True, timeout=60, check=False)

    assert done.stdout == b"good\n", done.stderr


def test_files_are_counted_below_a_folder_without_following_links(tmp_path: Path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)

    assert file_count.contains_more_than(str(tmp_path), 3)
    assert not file_count.contains_more_than(str(tmp_path), 4)
    assert not file_count.contains_more_than(str(tmp_path / "none"), 0)


def test_files_below_a_path_that_is_too_long_are_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("x" * 250)  # noqa: PTH102
        os.chdir("x" * 250)
    (Path() / "file").write_bytes(b"")

    assert file_count.contains_more_than(str(tmp_path), 1000)
