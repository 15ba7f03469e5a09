"""The fair-share gate: who goes next, who waits, and what is left when they go."""

import asyncio

import pytest

from appliance.domain.completions import Urgency
from appliance.errors import QueueFull
from appliance.inference.admission.fair_queue import FairQueue, QueueRequest, Slot


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Line:
    """Asks for places at a gate and notes in which order they are given."""

    def __init__(self, gate: FairQueue, of_model: int = 1) -> None:
        self.gate = gate
        self.served: list[str] = []
        self._of_model = of_model
        self._tickets: list[Slot] = []

    def ask(self, owner: str, urgency: Urgency = Urgency.INTERACTIVE) -> "asyncio.Task[None]":
        return asyncio.create_task(self._enter(owner, urgency))

    async def serve_all(self) -> list[str]:
        """End what runs until nobody is left; in the order in which they came in."""
        await settled()
        while self._tickets:
            self._tickets.pop(0).release()
            await settled()
        return self.served

    async def _enter(self, owner: str, urgency: Urgency) -> None:
        wish = QueueRequest("engine", "model", owner, urgency, self._of_model)
        ticket = await self.gate.acquire(wish)
        self.served.append(owner)
        self._tickets.append(ticket)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_gate_when_there_is_room_then_nobody_waits() -> None:
    gate = FairQueue()
    line = Line(gate, of_model=2)
    line.ask("a")
    line.ask("b")
    await settled()
    assert (line.served, gate.running, gate.waiting) == (["a", "b"], 2, 0)


async def test_gate_when_one_owner_asks_much_then_others_get_every_second_turn() -> None:
    line = Line(FairQueue())
    for owner in ("a", "a", "a", "a", "b", "b"):
        line.ask(owner)
    assert await line.serve_all() == ["a", "b", "a", "b", "a", "a"]


async def test_gate_when_an_owner_has_twice_the_weight_then_twice_the_turns() -> None:
    line = Line(FairQueue(weight_of=lambda owner: 2.0 if owner == "big" else 1.0))
    line.ask("first")
    await settled()
    for owner in ["small"] * 3 + ["big"] * 6:
        line.ask(owner)
    served = (await line.serve_all())[1:]
    assert served[:6].count("big") == 4
    assert served.count("big") == 6


async def test_gate_when_a_chat_comes_after_batch_work_then_it_goes_first() -> None:
    line = Line(FairQueue())
    line.ask("a", Urgency.BATCH)
    await settled()
    line.ask("a", Urgency.BATCH)
    line.ask("b", Urgency.BATCH)
    line.ask("c")
    assert await line.serve_all() == ["a", "c", "b", "a"]


async def test_gate_when_batch_work_has_waited_long_then_it_counts_as_interactive() -> None:
    clock = Clock()
    line = Line(FairQueue(ageing_s=10.0, clock=clock))
    line.ask("first")
    await settled()
    line.ask("batch", Urgency.BATCH)
    await settled()
    clock.now += 10.0
    line.ask("chat")
    assert await line.serve_all() == ["first", "batch", "chat"]


async def test_gate_when_an_owner_was_away_then_it_has_saved_nothing_up() -> None:
    line = Line(FairQueue())
    for _ in range(6):
        line.ask("a")
        await line.serve_all()
    line.served.clear()
    line.ask("a")
    await settled()
    for owner in ("b", "b", "b", "a", "a"):
        line.ask(owner)
    assert await line.serve_all() == ["a", "b", "b", "a", "b", "a"]


async def test_gate_when_a_model_is_full_then_another_of_the_provider_is_not_held_up() -> None:
    gate = FairQueue()
    tickets = [
        await gate.acquire(QueueRequest("engine", model, "a", Urgency.INTERACTIVE, model_limit=1))
        for model in ("one", "two")
    ]
    waiting = [
        asyncio.create_task(
            gate.acquire(QueueRequest("engine", model, "a", Urgency.INTERACTIVE, model_limit=1))
        )
        for model in ("one", "two")
    ]
    await settled()
    tickets[1].release()
    await settled()
    assert [task.done() for task in waiting] == [False, True]
    tickets[0].release()
    for task in waiting:
        (await task).release()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_gate_when_the_provider_has_a_limit_then_its_models_share_it() -> None:
    gate = FairQueue()
    first = await gate.acquire(QueueRequest("far", "one", "a", Urgency.INTERACTIVE, 8, 1))
    second = asyncio.create_task(
        gate.acquire(QueueRequest("far", "two", "a", Urgency.INTERACTIVE, 8, 1))
    )
    await settled()
    assert not second.done()
    first.release()
    (await second).release()


async def test_gate_when_one_who_waits_is_cancelled_then_its_place_is_free() -> None:
    gate = FairQueue()
    line = Line(gate)
    line.ask("a")
    await settled()
    gone = line.ask("b")
    await settled()
    gone.cancel()
    await settled()
    assert gate.waiting == 0
    assert await line.serve_all() == ["a"]
    assert gate.running == 0


async def test_gate_when_cancelled_in_the_moment_of_being_let_in_then_nothing_leaks() -> None:
    gate = FairQueue()
    first = await gate.acquire(QueueRequest("engine", "m", "a", Urgency.INTERACTIVE, 1))
    second = asyncio.create_task(
        gate.acquire(QueueRequest("engine", "m", "b", Urgency.INTERACTIVE, 1))
    )
    third = asyncio.create_task(
        gate.acquire(QueueRequest("engine", "m", "c", Urgency.INTERACTIVE, 1))
    )
    await settled()
    first.release()
    second.cancel()
    (await third).release()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_gate_when_a_ticket_is_released_twice_then_it_counts_once() -> None:
    gate = FairQueue()
    first = await gate.acquire(QueueRequest("engine", "m", "a", Urgency.INTERACTIVE, 2))
    second = await gate.acquire(QueueRequest("engine", "m", "a", Urgency.INTERACTIVE, 2))
    first.release()
    first.release()
    assert gate.running == 1
    second.release()


async def test_gate_when_too_many_wait_then_refused_with_place_and_expected_wait() -> None:
    clock = Clock()
    gate = FairQueue(queue_limit=3, clock=clock)
    wish = QueueRequest("engine", "m", "a", Urgency.INTERACTIVE, 2)
    done = await gate.acquire(wish)
    clock.now += 4.0
    done.release()
    running = [await gate.acquire(wish) for _ in range(2)]
    waiting = [asyncio.create_task(gate.acquire(wish)) for _ in range(3)]
    await settled()
    with pytest.raises(QueueFull) as own:
        await gate.acquire(wish)
    assert own.value.details == {
        "queue_length": 3,
        "queue_limit": 3,
        "place": 4,
        "expected_wait_s": 8.0,
    }
    assert own.value.retry_after == 8.0
    with pytest.raises(QueueFull) as others:
        await gate.acquire(QueueRequest("engine", "m", "b", Urgency.INTERACTIVE, 2))
    assert others.value.details["place"] == 2
    for ticket in running:
        ticket.release()
    for task in waiting:
        (await task).release()


async def test_gate_when_one_owner_fills_its_share_of_the_queue_then_others_may_wait() -> None:
    gate = FairQueue(queue_limit=10, owner_limit=1)
    wish = QueueRequest("engine", "m", "a", Urgency.INTERACTIVE, 1)
    first = await gate.acquire(wish)
    second = asyncio.create_task(gate.acquire(wish))
    await settled()
    with pytest.raises(QueueFull, match=r"your share of the queue for engine is full \(1 of 1\)"):
        await gate.acquire(wish)
    other = asyncio.create_task(
        gate.acquire(QueueRequest("engine", "m", "b", Urgency.INTERACTIVE, 1))
    )
    await settled()
    assert gate.waiting == 2
    first.release()
    for task in (other, second):
        (await task).release()


async def test_gate_when_a_wish_is_bounded_elsewhere_then_it_waits_however_many_do() -> None:
    gate = FairQueue(queue_limit=1)
    wish = QueueRequest("engine", "m", "a", Urgency.BATCH, 1, bounded=False)
    tasks = [asyncio.create_task(gate.acquire(wish)) for _ in range(5)]
    await settled()
    assert gate.waiting == 4
    for task in tasks:
        (await task).release()
    assert (gate.running, gate.waiting) == (0, 0)


async def test_gate_when_thousands_come_and_go_then_nothing_is_kept_of_them() -> None:
    gate = FairQueue(queue_limit=100_000, owner_limit=100_000)

    async def one(number: int) -> None:
        wish = QueueRequest("engine", "m", f"user:{number % 3000}", Urgency.INTERACTIVE, 8)
        ticket = await gate.acquire(wish)
        await asyncio.sleep(0)
        ticket.release()

    for start in range(0, 5000, 100):
        tasks = [asyncio.create_task(one(start + number)) for number in range(100)]
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (gate.running, gate.waiting) == (0, 0)
