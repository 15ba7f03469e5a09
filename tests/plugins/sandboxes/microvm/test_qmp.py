"""QEMU's monitor: saving a machine's state."""

import socket
import threading
from pathlib import Path

import pytest

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.microvm.qmp import QmpClient


def answering(*lines: bytes) -> QmpClient:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs:
            theirs.sendall(b'{"QMP": {}}\n')
            for line in lines:
                theirs.recv(65536)
                theirs.sendall(line + b"\n")

    threading.Thread(target=answer, daemon=True).start()
    return QmpClient(ours)


DONE = b'{"return": {}}'


def test_monitor_saves_once_qemu_says_completed(tmp_path: Path):
    busy, ready = (b'{"return": {"status": "%s"}}' % word for word in (b"active", b"completed"))
    monitor = answering(DONE, b'{"event": "X"}\n' + DONE, DONE, DONE, busy, ready)

    with (tmp_path / "state").open("wb") as file:
        monitor.save_state(file.fileno())
    monitor.close()


@pytest.mark.parametrize(
    "answers",
    [
        (b'{"error": {"desc": "no such command"}}',),
        (DONE, DONE, DONE, DONE, b'{"return": {"status": "failed"}}'),
        (b"no json",),
        (DONE,),
    ],
)
def test_monitor_that_refuses_or_ends_is_an_error(tmp_path: Path, answers: tuple[bytes, ...]):
    monitor = answering(*answers)

    with (
        (tmp_path / "state").open("wb") as file,
        pytest.raises(SandboxUnavailable, match="state was not saved"),
    ):
        monitor.save_state(file.fileno())
    monitor.close()
