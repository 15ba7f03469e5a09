"""A run whose guest sends what it should not: the server's end holds."""

import asyncio
import contextlib
import os
import socket

import pytest

from appliance.domain.execution import (
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.errors import SandboxUnavailable
from plugins._shared.guest.agent import FRAME_BYTES, FRAME_HEADER
from plugins._shared.guest.frames import FrameDecoder
from plugins._shared.guest.results import build_result
from plugins._shared.guest.run import GuestRun
from plugins._shared.stage import init
from tests.support.polling import until

_ISOLATION = Isolation("test", IsolationLevel.GVISOR, ())
_GENEROUS = Limits(wall_s=60.0)


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
    await until(lambda: run.report.started)

    guest.used_us = 2_400_000  # less than the limit since its start
    await asyncio.sleep(0.3)  # it must not be killed
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
