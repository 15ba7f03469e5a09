"""Cancels the work for a request whose client has disconnected."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar.types import Receive

from appliance.errors import ApplianceError

T = TypeVar("T")


class ClientDisconnected(ApplianceError):
    """The client disconnected before the response."""

    code = "SERVICE_UNAVAILABLE"


async def cancel_on_disconnect(
    receive: Receive, work: Coroutine[Any, Any, T], delay_s: float = 0.0
) -> T:
    """The result of `work`, which is cancelled if the client disconnects first.

    The request's body must have been read. Watching begins after `delay_s` seconds, since it
    costs as much as a short request. Raises ClientDisconnected.
    """
    watch = _DisconnectWatch(receive, delay_s)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.caused_cancellation():
            raise ClientDisconnected("the client disconnected before the response") from None
        raise
    finally:
        await watch.close()


class _DisconnectWatch:
    """Cancels the task that created it when the client disconnects."""

    def __init__(self, receive: Receive, after_s: float) -> None:
        self._receive = receive
        self._owner = asyncio.current_task()
        self._cancelling = self._owner.cancelling() if self._owner else 0
        self._disconnected = self._closed = False
        self._reader: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._start_reading)

    def caused_cancellation(self) -> bool:
        """Whether the task was cancelled by this watch and by nothing else."""
        return (
            self._disconnected
            and self._owner is not None
            and self._owner.uncancel() <= self._cancelling
        )

    async def close(self) -> None:
        self._closed = True
        self._timer.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})

    def _start_reading(self) -> None:
        self._reader = asyncio.create_task(_read_until_disconnect(self._receive))
        self._reader.add_done_callback(self._on_reader_done)

    def _on_reader_done(self, reader: "asyncio.Task[None]") -> None:
        if reader.cancelled() or self._closed:
            return
        reader.exception()  # a connection that can't be read counts as disconnected
        self._disconnected = True
        if self._owner is not None:
            self._owner.cancel()


async def _read_until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
