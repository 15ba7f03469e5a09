"""Events that are spread over time."""

import asyncio

from appliance.api.http.pacer import Pacer

NEVER = 1e-6  # per second
CLIENT = "192.0.2.1"


async def turns(pacing: Pacer, count: int) -> int:
    """How many of so many events do not wait."""
    waits = [asyncio.create_task(pacing.wait(CLIENT)) for _ in range(count)]
    await asyncio.sleep(0)
    done = sum(each.done() for each in waits)
    for each in waits:
        each.cancel()
    await asyncio.wait(waits)
    return done


async def test_pacer_when_more_come_than_the_burst_then_the_others_wait() -> None:
    pacing = Pacer(NEVER, burst=3)
    assert await turns(pacing, 10) == 3
    assert await turns(pacing, 1) == 0


async def test_pacer_when_a_turn_comes_then_the_wait_ends() -> None:
    pacing = Pacer(1000.0, burst=1)
    async with asyncio.timeout(20):
        await asyncio.gather(*(pacing.wait(CLIENT) for _ in range(20)))


async def test_pacer_when_time_passes_then_no_more_than_the_burst_is_saved() -> None:
    now = 1e9
    pacing = Pacer(1.0, burst=3, clock=lambda: now)
    assert await turns(pacing, 10) == 3
    now += 1000
    assert await turns(pacing, 10) == 3


async def test_pacer_when_very_many_wait_then_another_does_not() -> None:
    pacing = Pacer(NEVER, burst=1, max_waiting=5)
    assert await turns(pacing, 1 + 5 + 7) == 1 + 7
    assert await turns(pacing, 1) == 0


async def test_pacer_when_one_client_has_many_events_then_another_is_next() -> None:
    pacing = Pacer(1000.0, burst=1)
    ended: list[str] = []

    async def wait(client: str) -> None:
        await pacing.wait(client)
        ended.append(client)

    hostile = [asyncio.create_task(wait("192.0.2.9")) for _ in range(100)]
    await asyncio.sleep(0)
    async with asyncio.timeout(20):
        await wait("192.0.2.1")
        before = len(ended)
        await asyncio.wait(hostile)
    assert before < 50


async def test_pacer_when_those_who_wait_are_cancelled_then_they_take_no_turns() -> None:
    now = 1e9
    pacing = Pacer(1.0, burst=1, clock=lambda: now)
    assert await turns(pacing, 1000) == 1
    now += 1
    assert await turns(pacing, 1) == 1
