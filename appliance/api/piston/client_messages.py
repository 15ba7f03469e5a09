"""Piston's messages of a WebSocket client: `init`, `data` and `signal`."""

import asyncio
import signal
from typing import Any

from appliance.api.http.validation import convert_field
from appliance.api.piston.schemas import ExecuteBody
from appliance.api.streaming.websocket import CloseConnection, CloseReason, JsonSocket
from appliance.errors import InvalidInput

_INIT_TIMEOUT_S = 10.0
_FATAL_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")
_SIGNALS = frozenset(each.name for each in signal.Signals)

# Piston's codes and texts.
_ALREADY_INITIALIZED = CloseReason(4000, "Already Initialized")
_INITIALIZATION_TIMEOUT = CloseReason(4001, "Initialization Timeout")
_NOT_INITIALIZED = CloseReason(4003, "Not yet initialized")
_ONLY_STDIN = CloseReason(4004, "Can only write to stdin")
_INVALID_SIGNAL = CloseReason(4005, "Invalid signal")


async def receive_init(socket: JsonSocket) -> ExecuteBody:
    """The `init` message, which must come first and soon.

    Raises CloseConnection, InvalidInput, PayloadTooLarge, WebSocketDisconnect.
    """
    try:
        async with asyncio.timeout(_INIT_TIMEOUT_S):
            message = await socket.receive()
    except TimeoutError:
        raise CloseConnection(_INITIALIZATION_TIMEOUT) from None
    if message.get("type") != "init":
        raise CloseConnection(_NOT_INITIALIZED)
    return convert_field(message, ExecuteBody, strict=False)


async def receive_signal(socket: JsonSocket) -> str:
    """The name of the signal by which the client ends the program. Raises as receive_init."""
    while True:
        message = await socket.receive()
        match message.get("type"):
            case "init":
                raise CloseConnection(_ALREADY_INITIALIZED)
            case "data":
                _reject_input(message.get("stream"))
            case "signal":
                return _fatal_signal(message.get("signal"))
            case _:  # clients may send other messages to keep the connection open
                pass


def _reject_input(stream: Any) -> None:
    if stream != "stdin":
        raise CloseConnection(_ONLY_STDIN)
    raise InvalidInput.at(
        "data", "is not supported while the program runs; send all input as stdin of init"
    )


def _fatal_signal(name: Any) -> str:
    if not isinstance(name, str) or name not in _SIGNALS:
        raise CloseConnection(_INVALID_SIGNAL)
    if name not in _FATAL_SIGNALS:
        raise InvalidInput.at(
            "signal", f"{name} is not supported; use one of: {', '.join(_FATAL_SIGNALS)}"
        )
    return name
