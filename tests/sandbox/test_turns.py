"""Who is next when runs wait for the sandbox."""

import asyncio

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import RunRequest
from appliance.domain.tasks import Priority
from appliance.sandbox.runner import SandboxRunner
from appliance.spi.fair_queue import UserWeights
from tests.support.polling import until
from tests.support.waiting_backend import WaitingBackend


async def test_runs_when_one_user_has_many_waiting_then_others_go_between() -> None:
    backend = WaitingBackend()
    runner = SandboxRunner({"test": backend}, SandboxSettings(parallel_runs=3))
    await runner.start()
    served = list[str]()

    async def run(name: str, user_id: int, priority: Priority) -> None:
        await runner.for_user(user_id, "free", priority).run(RunRequest(("true",)))
        served.append(name)

    queued = [("a1", 1), ("a2", 1), ("a3", 1), ("a4", 1), ("a5", 1), ("b1", 2)]
    async with asyncio.TaskGroup() as group:
        for name, user_id in queued:
            group.create_task(run(name, user_id, Priority.NORMAL))
        group.create_task(run("chat", 1, Priority.INTERACTIVE))
        await until(lambda: backend.running == 3)
        backend.go.set()
    assert served == ["a1", "a2", "a3", "chat", "b1", "a4", "a5"]
    await runner.close()


async def test_runs_when_a_user_has_twice_the_weight_then_twice_the_turns() -> None:
    backend, served = WaitingBackend(), list[int]()

    async def username(user_id: int) -> str:
        return {1: "small", 2: "big"}[user_id]

    weights = UserWeights({"big": 2.0}, username)
    limits = SandboxSettings(parallel_runs=1)
    runner = SandboxRunner({"test": backend}, limits, weights=weights)
    await runner.start()

    async def run(user_id: int) -> None:
        await runner.run_for_user(user_id, "free", RunRequest(("true",)))
        served.append(user_id)

    async with asyncio.TaskGroup() as group:
        for user_id in (1, 1, 1, 1, 2, 2, 2, 2, 2, 2):
            group.create_task(run(user_id))
        await until(lambda: backend.running == 1)
        backend.go.set()
    assert served == [1, 2, 2, 1, 2, 2, 1, 2, 2, 1]
    await runner.close()
