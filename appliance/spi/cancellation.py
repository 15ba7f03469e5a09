"""Work that a cancellation must not leave half done."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def run_to_completion(work: Awaitable[T]) -> T:
    """Await `work` to its end even if the caller is cancelled meanwhile.

    Raises CancelledError afterwards if it was; an error of the work is then its cause.
    """
    future, cancellation = await _complete(work)
    if cancellation is None:
        return future.result()
    if not future.cancelled() and (problem := future.exception()):
        raise cancellation from problem
    raise cancellation


async def run_deferring_cancellation(work: Awaitable[T]) -> tuple[T, bool]:
    """As run_to_completion, but returns the result and whether the caller was cancelled.

    For results that have to be released: the caller does that, then raises CancelledError.
    """
    future, cancellation = await _complete(work)
    return future.result(), cancellation is not None


async def _complete(
    work: Awaitable[T],
) -> tuple["asyncio.Future[T]", asyncio.CancelledError | None]:
    future = asyncio.ensure_future(work)
    cancellation: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait({future})
        except asyncio.CancelledError as error:
            cancellation = error
    return future, cancellation
