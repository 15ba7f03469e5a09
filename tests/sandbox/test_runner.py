"""Selection of the backend; nothing runs without one."""

import asyncio

import pytest

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    RunRequest,
    RunResult,
    RunUsage,
)
from appliance.errors import SandboxUnavailable
from appliance.sandbox.runner import SandboxRunner

REQUEST = RunRequest(("sh",))


class Backend:
    """Stands for a backend that this machine may not have."""

    def __init__(self, name: str, level: IsolationLevel | None, problem: str = "") -> None:
        self.name = name
        self.running = self.most_running = 0
        self.closed = False
        isolation = Isolation(name, level, ()) if level else None
        self.status = BackendStatus(name, level is not None, isolation, problem=problem)

    async def probe(self) -> BackendStatus:
        return self.status

    async def run(self, request: RunRequest) -> RunResult:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        isolation = Isolation(self.name, IsolationLevel.NAMESPACES, ())
        usage = RunUsage(0, 0, 0)
        return RunResult(EndReason.EXITED, 0, None, b"", b"", False, usage, isolation)

    async def close(self) -> None:
        self.closed = True


class Broken(Backend):
    async def probe(self) -> BackendStatus:
        raise ValueError("a plugin's own fault")


async def started(*backends: Backend, settings: SandboxSettings | None = None) -> SandboxRunner:
    runner = SandboxRunner({b.name: b for b in backends}, settings or SandboxSettings())
    await runner.start()
    return runner


async def test_run_before_start_is_refused():
    runner = SandboxRunner({}, SandboxSettings())

    with pytest.raises(SandboxUnavailable, match="is being prepared"):
        await runner.run(REQUEST)


async def test_strongest_backend_that_works_is_chosen():
    runner = await started(
        Backend("a", IsolationLevel.NAMESPACES),
        Backend("b", IsolationLevel.GVISOR),
        Backend("c", None, "no kvm"),
    )

    assert runner.status.name == "b"
    assert (await runner.run(REQUEST)).isolation.backend == "b"


async def test_backend_that_works_later_is_found_without_a_restart():
    backend = Backend("a", None, "busy")
    runner = SandboxRunner({"a": backend}, SandboxSettings(), first_retry_s=0.01)
    await runner.start()
    with pytest.raises(SandboxUnavailable, match="busy"):
        await runner.run(REQUEST)

    backend.status = Backend("a", IsolationLevel.NAMESPACES).status
    async with asyncio.timeout(10):
        while not runner.status.available:
            await asyncio.sleep(0.01)

    assert (await runner.run(REQUEST)).ok
    await runner.close()


async def test_named_backend_is_taken_though_a_stronger_one_works():
    runner = await started(
        Backend("a", IsolationLevel.NAMESPACES),
        Backend("b", IsolationLevel.GVISOR),
        settings=SandboxSettings(backend="a"),
    )

    assert runner.status.name == "a"


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        (SandboxSettings(), "bubblewrap"),
        (SandboxSettings(rootfs="debian"), "microvm"),
        (SandboxSettings(require="microvm"), "microvm"),
        (SandboxSettings(backend="microvm"), "microvm"),
    ],
)
async def test_machine_of_its_own_is_chosen_only_where_it_is_meant(
    settings: SandboxSettings, chosen: str
):
    runner = await started(
        Backend("bubblewrap", IsolationLevel.NAMESPACES),
        Backend("microvm", IsolationLevel.MICROVM),
        settings=settings,
    )

    assert runner.status.name == chosen


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SandboxSettings(backend="nowhere"), "'nowhere', which is not installed"),
        (SandboxSettings(require="microvm"), "demands microvm; this machine offers namespaces"),
        (SandboxSettings(backend="c"), "no kvm"),
    ],
)
async def test_nothing_runs_where_the_settings_can_not_be_met(
    settings: SandboxSettings, words: str
):
    backends = [Backend("a", IsolationLevel.NAMESPACES), Backend("c", None, "no kvm")]
    runner = await started(*backends, settings=settings)

    assert not runner.status.available
    with pytest.raises(SandboxUnavailable, match=words):
        await runner.run(REQUEST)


async def test_all_problems_are_told_when_no_backend_works():
    runner = await started(Backend("a", None, "no namespaces"), Backend("b", None, "no kvm"))

    assert runner.status.problem == "a: no namespaces; b: no kvm"


async def test_broken_plugin_does_not_keep_others_from_working():
    runner = await started(Broken("a", None), Backend("b", IsolationLevel.NAMESPACES))

    assert runner.status.name == "b"


async def test_no_backend_at_all_is_a_reason_too():
    runner = await started()

    assert "no sandbox backend" in runner.status.problem


async def test_runs_at_a_time_are_bounded():
    backend = Backend("a", IsolationLevel.NAMESPACES)
    runner = await started(backend, settings=SandboxSettings(parallel_runs=2))

    await asyncio.gather(*(runner.run(REQUEST) for _ in range(6)))

    assert backend.most_running == 2


async def test_closed_runner_takes_no_more():
    backend = Backend("a", IsolationLevel.NAMESPACES)
    runner = await started(backend)
    await runner.close()

    assert backend.closed
    with pytest.raises(SandboxUnavailable, match="shut down"):
        await runner.run(REQUEST)


def test_limits_are_the_settings_in_bytes():
    limits = SandboxRunner({}, SandboxSettings(memory_mib=64, output_kept_kib=2)).limits()

    assert limits.memory_bytes == 64 * 1024 * 1024
    assert limits.output_kept_bytes == 2048
    assert limits.wall_s == 10.0
