"""Work that nobody needs once the client has gone."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request

from appliance.errors import ApplianceError

T = TypeVar("T")


class ClientGone(ApplianceError):
    """The connection ended before the answer: nobody reads what follows."""

    code = "SERVICE_UNAVAILABLE"


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled if the client goes away first.

    The request's body must have been read. Raises ClientGone.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client went away before the answer")
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.wait({task, gone})


async def _gone(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
