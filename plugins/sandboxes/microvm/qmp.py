"""Saves the whole state of a QEMU machine through its monitor (QMP, over a socket).

Used once per start of the server, on a machine that has run no program yet.
"""

import array
import json
import socket
import time
from typing import Any

from appliance.errors import SandboxUnavailable

_SAVE_S = 60.0
_RESPONSE_S = 10.0
_POLL_S = 0.02
_MAX_RESPONSE = 1024 * 1024
_UNLIMITED = 1 << 40  # bytes a second


class QmpClient:
    """A blocking client; use it from a thread."""

    def __init__(self, connection: socket.socket) -> None:
        """Owns the connection."""
        self._socket = connection
        self._socket.settimeout(_RESPONSE_S)
        self._bytes = b""

    def save_state(self, state: int) -> None:
        """Write the machine's state to the descriptor `state`. Raises SandboxUnavailable."""
        try:
            self._execute("qmp_capabilities")
            self._execute("migrate-set-parameters", {"max-bandwidth": _UNLIMITED})
            self._execute("getfd", {"fdname": "state"}, state)
            self._execute("migrate", {"uri": "fd:state"})
            self._wait_for_migration()
        except (OSError, ValueError) as error:
            raise SandboxUnavailable(f"a machine's state was not saved: {error}") from error

    def close(self) -> None:
        self._socket.close()

    def _wait_for_migration(self) -> None:
        deadline = time.monotonic() + _SAVE_S
        while time.monotonic() < deadline:
            status = self._execute("query-migrate").get("status", "")
            if status == "completed":
                return
            if status in ("failed", "cancelled"):
                raise ValueError(f"QEMU reports: {status}")
            time.sleep(_POLL_S)
        raise ValueError(f"not finished within {_SAVE_S:.0f} s")

    def _execute(
        self, command: str, arguments: dict[str, Any] | None = None, fd: int | None = None
    ) -> dict[str, Any]:
        message = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _pack_fd(fd))]
        self._socket.sendmsg([message], control)
        while True:
            response = self._read_response()
            if error := response.get("error"):
                raise ValueError(f"{command}: {error.get('desc', error)}")
            if "return" in response:
                return response["return"]

    def _read_response(self) -> dict[str, Any]:
        while b"\n" not in self._bytes:
            piece = self._socket.recv(65536)
            if not piece or len(self._bytes) > _MAX_RESPONSE:
                raise ValueError("QEMU's monitor ended")
            self._bytes += piece
        line, _, self._bytes = self._bytes.partition(b"\n")
        return json.loads(line)


def _pack_fd(fd: int) -> bytes:
    return array.array("i", [fd]).tobytes()
