"""What the client of a WebSocket says, and what that means for the connection."""

import asyncio
import signal
from typing import Any, NamedTuple

import msgspec
from litestar import WebSocket
from litestar.exceptions import WebSocketDisconnect

from appliance.api.http.validation import located
from appliance.api.piston.schemas import ExecuteBody
from appliance.errors import InvalidInput, PayloadTooLarge

AnySocket = WebSocket[Any, Any, Any]

_INIT_S = 10.0
_ENDING = ("SIGKILL", "SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP")
_SIGNALS = frozenset(each.name for each in signal.Signals)


class Closing(NamedTuple):
    """Why the box closes the connection: Piston's codes and reasons."""

    code: int
    reason: str


_AGAIN = Closing(4000, "Already Initialized")
_LATE = Closing(4001, "Initialization Timeout")
_EARLY = Closing(4003, "Not yet initialized")
_NO_STDIN = Closing(4004, "Can only write to stdin")
_NO_SIGNAL = Closing(4005, "Invalid signal")


class Close(Exception):
    """The client did what ends the connection."""

    def __init__(self, closing: Closing) -> None:
        super().__init__(closing.reason)
        self.closing = closing


class Inbox:
    """The client's messages, each a JSON object of at most so many bytes.

    All of it raises Close, InvalidInput, PayloadTooLarge, and WebSocketDisconnect when the
    client has gone.
    """

    def __init__(self, socket: AnySocket, most_bytes: int) -> None:
        self._socket = socket
        self._most_bytes = most_bytes

    async def init(self) -> ExecuteBody:
        """The `init` that has to come first, and soon."""
        try:
            async with asyncio.timeout(_INIT_S):
                message = await self._next()
        except TimeoutError:
            raise Close(_LATE) from None
        if message.get("type") != "init":
            raise Close(_EARLY)
        return _body(message)

    async def signal(self) -> str:
        """The signal by which the client ends the program."""
        while True:
            message = await self._next()
            match message.get("type"):
                case "init":
                    raise Close(_AGAIN)
                case "data":
                    _refuse_input(message.get("stream"))
                case "signal":
                    return _ending(message.get("signal"))
                case _:  # clients may send words of their own, to keep the connection open
                    pass

    async def _next(self) -> dict[str, Any]:
        event: Any = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(detail="the client has gone")
        message = event.get("text") or event.get("bytes") or b""
        if len(message) > self._most_bytes:
            raise PayloadTooLarge("The message is larger than this box accepts.")
        try:
            return msgspec.json.decode(message, type=dict[str, Any])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise InvalidInput("a message must be a JSON object") from None


def _body(message: dict[str, Any]) -> ExecuteBody:
    try:
        return msgspec.convert(message, ExecuteBody, strict=False)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        field, why = located(place.removesuffix("`"), reason)
        raise InvalidInput.at(field, why) from None


def _refuse_input(stream: object) -> None:
    if stream != "stdin":
        raise Close(_NO_STDIN)
    raise InvalidInput.at(
        "data", "can't be given to a program that runs; send all of its input as stdin of init"
    )


def _ending(name: object) -> str:
    if not isinstance(name, str) or name not in _SIGNALS:
        raise Close(_NO_SIGNAL)
    if name not in _ENDING:
        raise InvalidInput.at(
            "signal", f"{name} can't be delivered here; what ends it can: {', '.join(_ENDING)}"
        )
    return name
