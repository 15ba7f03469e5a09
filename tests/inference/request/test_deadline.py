"""Deadlines of one kind: one timer for all of them."""

import asyncio

import pytest

from appliance.errors import DeadlineExceeded, ServerStopping
from appliance.inference.request.deadline import Deadlines


async def forever() -> None:
    await asyncio.Event().wait()


async def at_once() -> str:
    return "done"


async def test_deadline_when_its_time_is_up_then_the_wait_ends_and_says_so() -> None:
    deadline = Deadlines(0.01, "it took too long").start()
    async with asyncio.timeout(10):
        with pytest.raises(DeadlineExceeded, match="it took too long"):
            await deadline.run(forever)
        with pytest.raises(DeadlineExceeded):
            await deadline.run(at_once)


async def test_deadline_when_it_is_closed_then_it_never_ends() -> None:
    deadlines = Deadlines(0.01, "it took too long")
    closed, later = deadlines.start(), deadlines.start()
    assert await closed.run(at_once) == "done"
    closed.close()
    with pytest.raises(DeadlineExceeded):
        await later.run(forever)
    assert await closed.run(at_once) == "done"


async def test_deadlines_when_some_begin_while_others_run_then_each_ends() -> None:
    deadlines = Deadlines(0.02, "it took too long")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(5):
            group.create_task(_ends(deadlines))
            await asyncio.sleep(0.005)
    with pytest.raises(DeadlineExceeded):  # the timer has run out, and is set again
        await deadlines.start().run(forever)


async def test_deadline_when_the_task_is_cancelled_then_that_goes_first() -> None:
    deadline = Deadlines(60.0, "it took too long").start()
    task = asyncio.create_task(deadline.run(forever))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_deadlines_when_drained_then_those_that_stay_open_end_with_the_error() -> None:
    deadlines = Deadlines(60.0, "it took too long")
    ending, lasting = deadlines.start(), deadlines.start()
    work = asyncio.create_task(lasting.run(forever))
    draining = asyncio.create_task(deadlines.drain(60.0, ServerStopping))
    await asyncio.sleep(0)
    assert await ending.run(at_once) == "done"
    ending.close()
    await asyncio.sleep(0)
    assert not draining.done()
    draining.cancel()
    await deadlines.drain(0.0, ServerStopping)
    with pytest.raises(ServerStopping):
        await work
    await deadlines.drain(60.0, ServerStopping)  # none is left


async def test_deadlines_when_drained_then_it_ends_with_the_last_of_them() -> None:
    deadlines = Deadlines(60.0, "it took too long")
    open_one = deadlines.start()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(deadlines.drain(60.0, ServerStopping))
        await asyncio.sleep(0)
        open_one.close()


async def _ends(deadlines: Deadlines) -> None:
    with pytest.raises(DeadlineExceeded):
        await deadlines.start().run(forever)
