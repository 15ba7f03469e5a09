"""The queue of completions: who is served next, who waits, and who is refused."""

import asyncio

import pytest

from appliance.domain.tasks import Priority
from appliance.errors import QueueFull
from appliance.inference.admission.completion_queue import CompletionQueue, Slot
from appliance.spi.fair_queue import QueueRequest


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class QueueUsers:
    """Acquires slots of a queue and notes the order in which owners get them."""

    def __init__(self, queue: CompletionQueue, model_limit: int = 1) -> None:
        self.queue = queue
        self.served: list[str] = []
        self._model_limit = model_limit
        self._slots: list[Slot] = []

    def ask(self, owner: str, priority: Priority = Priority.INTERACTIVE) -> "asyncio.Task[None]":
        return asyncio.create_task(self._enter(owner, priority))

    async def serve_all(self) -> list[str]:
        """Release slots until none is held; the result is the order in which they were granted."""
        await settled()
        while self._slots:
            self._slots.pop(0).release()
            await settled()
        return self.served

    async def _enter(self, owner: str, priority: Priority) -> None:
        request = QueueRequest(owner, priority, "model", self._model_limit)
        slot = await self.queue.acquire("engine", request)
        self.served.append(owner)
        self._slots.append(slot)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_queue_when_there_is_capacity_then_nobody_waits() -> None:
    queue = CompletionQueue()
    users = QueueUsers(queue, model_limit=2)
    users.ask("a")
    users.ask("b")
    await settled()
    assert (users.served, queue.running, queue.waiting) == (["a", "b"], 2, 0)


async def test_queue_when_several_owners_were_served_then_the_last_slot_is_for_who_has_none() -> (
    None
):
    clock = Clock()
    users = QueueUsers(CompletionQueue(clock=clock), model_limit=4)
    users.ask("b")
    assert await users.serve_all() == ["b"]
    clock.now += 599
    for owner in ("a", "a", "a", "a", "a"):
        users.ask(owner)
    await settled()
    assert users.served == ["b", "a", "a", "a"]
    for owner in ("b", "b"):
        users.ask(owner)
    await settled()
    assert users.served == ["b", "a", "a", "a", "b"]
    assert sorted(await users.serve_all()) == ["a"] * 5 + ["b"] * 3


async def test_queue_when_one_owner_is_alone_then_it_gets_every_slot() -> None:
    clock = Clock()
    users = QueueUsers(CompletionQueue(clock=clock), model_limit=4)
    users.ask("b")
    await users.serve_all()
    clock.now += 601
    for owner in ("a", "a", "a", "a", "a"):
        users.ask(owner)
    await settled()
    assert users.served == ["b", "a", "a", "a", "a"]
    await users.serve_all()


async def test_queue_when_one_owner_has_many_requests_then_others_get_every_second_turn() -> None:
    users = QueueUsers(CompletionQueue())
    for owner in ("a", "a", "a", "a", "b", "b"):
        users.ask(owner)
    assert await users.serve_all() == ["a", "b", "a", "b", "a", "a"]


async def test_queue_when_an_owner_has_twice_the_weight_then_twice_the_turns() -> None:
    users = QueueUsers(CompletionQueue(weight_of=lambda owner: 2.0 if owner == "big" else 1.0))
    users.ask("first")
    await settled()
    for owner in ["small"] * 3 + ["big"] * 6:
        users.ask(owner)
    served = (await users.serve_all())[1:]
    assert served[:6].count("big") == 4
    assert served.count("big") == 6


async def test_queue_when_an_interactive_request_follows_batch_ones_then_it_goes_first() -> None:
    users = QueueUsers(CompletionQueue())
    users.ask("a", Priority.BATCH)
    await settled()
    users.ask("a", Priority.BATCH)
    users.ask("b", Priority.BATCH)
    users.ask("c")
    assert await users.serve_all() == ["a", "c", "b", "a"]


async def test_queue_when_work_has_waited_then_it_rises_by_one_class_for_each_ageing_s() -> None:
    clock = Clock()
    users = QueueUsers(CompletionQueue(ageing_s=10.0, clock=clock))
    users.ask("first")
    await settled()
    for owner, priority in (("batch", Priority.BATCH), ("task", Priority.NORMAL)):
        users.ask(owner, priority)
    await settled()
    clock.now += 10.0
    users.ask("chat")
    users.ask("new task", Priority.NORMAL)
    await settled()
    assert await users.serve_all() == ["first", "task", "chat", "batch", "new task"]


async def test_queue_when_an_owner_was_idle_then_it_has_saved_nothing_up() -> None:
    users = QueueUsers(CompletionQueue())
    for _ in range(6):
        users.ask("a")
        await users.serve_all()
    users.served.clear()
    users.ask("a")
    await settled()
    for owner in ("b", "b", "b", "a", "a"):
        users.ask(owner)
    assert await users.serve_all() == ["a", "b", "b", "a", "b", "a"]


async def test_queue_when_a_model_is_full_then_another_of_the_provider_is_not_delayed() -> None:
    queue = CompletionQueue()
    slots = [
        await queue.acquire("engine", QueueRequest("a", pool=model, pool_limit=1))
        for model in ("one", "two")
    ]
    waiting = [
        asyncio.create_task(queue.acquire("engine", QueueRequest("a", pool=model, pool_limit=1)))
        for model in ("one", "two")
    ]
    await settled()
    slots[1].release()
    await settled()
    assert [task.done() for task in waiting] == [False, True]
    slots[0].release()
    for task in waiting:
        (await task).release()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_queue_when_the_provider_has_a_limit_then_its_models_share_it() -> None:
    queue = CompletionQueue(provider_limit=lambda _: 1)
    first = await queue.acquire("far", QueueRequest("a", pool="one", pool_limit=8))
    second = asyncio.create_task(queue.acquire("far", QueueRequest("a", pool="two", pool_limit=8)))
    await settled()
    assert not second.done()
    first.release()
    (await second).release()


async def test_queue_when_a_waiter_is_cancelled_then_it_leaves_the_queue() -> None:
    queue = CompletionQueue()
    users = QueueUsers(queue)
    users.ask("a")
    await settled()
    gone = users.ask("b")
    await settled()
    gone.cancel()
    await settled()
    assert queue.waiting == 0
    assert await users.serve_all() == ["a"]
    assert queue.running == 0


async def test_queue_when_cancelled_at_the_moment_of_its_grant_then_no_slot_leaks() -> None:
    queue = CompletionQueue()
    first = await queue.acquire("engine", QueueRequest("a", pool="m", pool_limit=1))
    second = asyncio.create_task(queue.acquire("engine", QueueRequest("b", pool="m", pool_limit=1)))
    third = asyncio.create_task(queue.acquire("engine", QueueRequest("c", pool="m", pool_limit=1)))
    await settled()
    first.release()
    second.cancel()
    (await third).release()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_queue_when_a_slot_is_released_twice_then_it_counts_once() -> None:
    queue = CompletionQueue()
    first = await queue.acquire("engine", QueueRequest("a", pool="m", pool_limit=2))
    second = await queue.acquire("engine", QueueRequest("a", pool="m", pool_limit=2))
    first.release()
    first.release()
    assert queue.running == 1
    second.release()


async def test_queue_when_too_many_wait_then_refused_with_position_and_expected_wait() -> None:
    clock = Clock()
    queue = CompletionQueue(queue_limit=3, clock=clock)
    request = QueueRequest("a", pool="m", pool_limit=2)
    done = await queue.acquire("engine", request)
    clock.now += 4.0
    done.release()
    running = [await queue.acquire("engine", request) for _ in range(2)]
    waiting = [asyncio.create_task(queue.acquire("engine", request)) for _ in range(3)]
    await settled()
    with pytest.raises(QueueFull) as own:
        await queue.acquire("engine", request)
    assert own.value.details == {
        "queue_length": 3,
        "queue_limit": 3,
        "place": 4,
        "expected_wait_s": 8.0,
    }
    assert own.value.retry_after == 8.0
    with pytest.raises(QueueFull) as others:
        await queue.acquire("engine", QueueRequest("b", pool="m", pool_limit=2))
    assert others.value.details["place"] == 2
    for slot in running:
        slot.release()
    for task in waiting:
        (await task).release()


async def test_queue_when_one_owner_fills_its_share_of_the_queue_then_others_may_wait() -> None:
    queue = CompletionQueue(queue_limit=10, user_limit=1)
    request = QueueRequest("a", pool="m", pool_limit=1)
    first = await queue.acquire("engine", request)
    second = asyncio.create_task(queue.acquire("engine", request))
    await settled()
    with pytest.raises(QueueFull, match=r"your share of the queue for engine is full \(1 of 1\)"):
        await queue.acquire("engine", request)
    other = asyncio.create_task(queue.acquire("engine", QueueRequest("b", pool="m", pool_limit=1)))
    await settled()
    assert queue.waiting == 2
    first.release()
    for task in (other, second):
        (await task).release()


async def test_queue_when_it_is_full_then_a_request_bounded_elsewhere_waits_anyway() -> None:
    queue = CompletionQueue(queue_limit=1)
    request = QueueRequest("a", Priority.BATCH, "m", 1, bounded=False)
    tasks = [asyncio.create_task(queue.acquire("engine", request)) for _ in range(5)]
    await settled()
    assert queue.waiting == 4
    for task in tasks:
        (await task).release()
    assert (queue.running, queue.waiting) == (0, 0)


async def test_queue_when_thousands_come_and_go_then_no_request_is_left() -> None:
    queue = CompletionQueue(queue_limit=100_000, user_limit=100_000)

    async def one(number: int) -> None:
        request = QueueRequest(f"user:{number % 3000}", pool="m", pool_limit=8)
        slot = await queue.acquire("engine", request)
        await asyncio.sleep(0)
        slot.release()

    for start in range(0, 5000, 100):
        tasks = [asyncio.create_task(one(start + number)) for number in range(100)]
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert (queue.running, queue.waiting) == (0, 0)
