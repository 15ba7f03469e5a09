"""Work that nobody needs once the client has gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple, Protocol, TypeVar

from litestar.types import Receive

from appliance.errors import ApplianceError

T = TypeVar("T")


class ClientGone(ApplianceError):
    """The connection ended before the answer: nobody reads what follows."""

    code = "SERVICE_UNAVAILABLE"


class Receiving(Protocol):
    """A request, or whatever else can be asked for the client's next message."""

    @property
    def receive(self) -> Receive: ...


class Line(NamedTuple):
    """The connection alone."""

    receive: Receive


async def unless_gone(
    request: Receiving, work: Coroutine[Any, Any, T], unwatched_s: float = 0.0
) -> T:
    """The result of `work`, which is cancelled if the client goes away first.

    The request's body must have been read. The first `unwatched_s` seconds nobody looks:
    to watch short work costs as much as the work. Raises ClientGone.
    """
    watch = _Watch(request, unwatched_s)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.ended_it():
            raise ClientGone("the client went away before the answer") from None
        raise
    finally:
        await watch.close()


class _Watch:
    """Cancels the task that made it when the client goes away."""

    def __init__(self, request: Receiving, after_s: float) -> None:
        self._request = request
        self._owner = asyncio.current_task()
        self._cancelling = self._owner.cancelling() if self._owner else 0
        self._gone = self._closed = False
        self._watching: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._begin)

    def ended_it(self) -> bool:
        """Whether it was this watch, and nobody else, that cancelled the task."""
        return self._gone and self._owner is not None and self._owner.uncancel() <= self._cancelling

    async def close(self) -> None:
        self._closed = True
        self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait({self._watching})

    def _begin(self) -> None:
        self._watching = asyncio.create_task(_until_gone(self._request))
        self._watching.add_done_callback(self._leave)

    def _leave(self, watching: "asyncio.Task[None]") -> None:
        if watching.cancelled() or self._closed:
            return
        watching.exception()  # a connection that can't be read is as good as gone
        self._gone = True
        if self._owner is not None:
            self._owner.cancel()


async def _until_gone(request: Receiving) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
