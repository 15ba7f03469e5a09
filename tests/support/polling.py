"""Waiting for a condition that no event announces, with a deadline."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def until(condition: Callable[[], T | Awaitable[T]], within_s: float = 60.0) -> T:
    """The first true value of `condition`, which may be a coroutine. Raises TimeoutError."""
    async with asyncio.timeout(within_s):
        while True:
            value: Any = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.002)


def wait_until(condition: Callable[[], T], within_s: float = 60.0) -> T:
    """As `until`, for tests without an event loop."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not true within {within_s:g} s")
        time.sleep(0.02)
    return value
