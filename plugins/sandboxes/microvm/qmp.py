"""Asks a running QEMU to write down the whole state of its machine (QMP, over a socket).

Used once per start of the service, on a machine that has run nothing of anybody's.
"""

import array
import json
import socket
import time
from typing import Any

from appliance.errors import SandboxUnavailable

_SAVE_S = 60.0
_ASK_S = 10.0
_POLL_S = 0.02
_MAX_ANSWER = 1024 * 1024
_UNLIMITED = 1 << 40  # bytes a second


class Monitor:
    """Blocks; to be used from a thread."""

    def __init__(self, connection: socket.socket) -> None:
        """Takes the connection over."""
        self._socket = connection
        self._socket.settimeout(_ASK_S)
        self._bytes = b""

    def save(self, state: int) -> None:
        """Write the machine's state to this descriptor. Raises SandboxUnavailable."""
        try:
            self._ask("qmp_capabilities")
            self._ask("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
            self._ask("getfd", {"fdname": "state"}, state)
            self._ask("migrate", {"uri": "fd:state"})
            self._wait()
        except (OSError, ValueError) as error:
            raise SandboxUnavailable(f"a machine's state was not saved: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _wait(self) -> None:
        deadline = time.monotonic() + _SAVE_S
        while time.monotonic() < deadline:
            status = self._ask("query-migrate").get("status", "")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise ValueError(f"QEMU says: {status}")
            time.sleep(_POLL_S)
        raise ValueError(f"not done within {_SAVE_S:.0f} s")

    def _ask(
        self, command: str, arguments: dict[str, Any] | None = None, fd: int | None = None
    ) -> dict[str, Any]:
        message = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        with_it = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _packed(fd))]
        self._socket.sendmsg([message], with_it)
        while True:
            answer = self._answer()
            if "error" in answer:
                raise ValueError(f"{command}: {answer['error'].get('desc', answer['error'])}")
            if "return" in answer:
                return answer["return"]

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._bytes:
            piece = self._socket.recv(65536)
            if not piece or len(self._bytes) > _MAX_ANSWER:
                raise ValueError("QEMU's monitor ended")
            self._bytes += piece
        line, _, self._bytes = self._bytes.partition(b"\n")
        return json.loads(line)


def _packed(fd: int) -> bytes:
    return array.array("i", [fd]).tobytes()
