"""Waiting for what must not be given up half-way."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def patiently(work: Awaitable[T]) -> tuple[T, bool]:
    """The result of `work`, and whether this task was asked to cancel while it went on.

    The caller raises the CancelledError after what it has to do with the result.
    """
    future = asyncio.ensure_future(work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError:
            if future.cancelled():
                raise
            cancelled = True
        except Exception:  # result() raises it below
            break
    return future.result(), cancelled
