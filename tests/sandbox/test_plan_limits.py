"""A user's plan: limits of a run, concurrent runs and queued runs."""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance import cli
from appliance.agents.agent import CodingAgent
from appliance.api.monkey.account_answers import user_answer
from appliance.config.loader import Loaded, load
from appliance.config.settings import AgentSettings, Settings
from appliance.domain.execution import (
    MIB,
    Limits,
    RunRequest,
)
from appliance.domain.tasks import Priority, TaskRequest
from appliance.domain.users import Principal, Role, User
from appliance.errors import ConfigError, InvalidInput, QueueFull
from appliance.sandbox.runner import SandboxRunner
from appliance.services.accounts import permissions
from appliance.services.sandbox.programs import Program
from appliance.services.sandbox.service import SandboxService
from appliance.store.sqlite.database import Database
from tests.support.accounts import PASSWORD
from tests.support.agent_fakes import (
    MemoryContext,
    ScriptedProvider,
    UnconfinedRunner,
    answers_in_turn,
    make_gateway,
)
from tests.support.polling import until
from tests.support.waiting_backend import WaitingBackend

FILE = """
[sandbox]
memory_mib = 128
parallel_runs = 3
queue_per_user = 1

[plans.pro]
sandbox = { memory_mib = 1024, wall_s = 60, queue_per_user = 2 }

[plans.small.sandbox]
cpus = 0.5
parallel_runs = 1
"""


def loaded(folder: Path, text: str = FILE, **environ: str) -> Loaded:
    file = folder / "server.toml"
    file.write_text(text)
    return load(file, {"XDG_DATA_HOME": "/nonexistent"} | environ, {})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return loaded(tmp_path).settings


def of_plan(plan: str, number: int = 1) -> Principal:
    who = (f"user_{number}", "x", "x@example.com", "X")
    user = User(number, *who, Role.DEVELOPER, False, 0.0, plan)
    return Principal(user, permissions.scopes_of_role(user.role))


def runner_of(settings: Settings, backend: WaitingBackend | None = None) -> SandboxRunner:
    backends = {"test": backend} if backend else {}
    return SandboxRunner(backends, settings.sandbox, plans=settings.plans)


def test_limits_when_a_plan_says_others_then_only_those_differ(settings: Settings) -> None:
    runner = runner_of(settings)
    pro, own = runner.limits("pro"), runner.limits()
    assert (pro.memory_bytes, pro.wall_s) == (1024 * MIB, 60.0)
    assert (own.memory_bytes, own.wall_s) == (128 * MIB, 10.0)
    assert (pro.cpu_s, pro.processes, pro.cpus) == (own.cpu_s, own.processes, own.cpus)
    assert runner.limits("small").cpus == 0.5


@pytest.mark.parametrize("plan", ["free", "enterprise", "", "PRO"])
def test_limits_when_the_settings_do_not_know_the_plan_then_the_boxs(
    plan: str, settings: Settings
) -> None:
    assert runner_of(settings).limits(plan) == runner_of(settings).limits()


def test_settings_when_the_plan_comes_as_json_from_the_environment_then_it_holds(
    tmp_path: Path,
) -> None:
    environ = {"MONKEY_CODER__PLANS__PRO__SANDBOX": '{"memory_mib": 64}'}
    found = loaded(tmp_path, FILE, **environ).settings.plans["pro"].sandbox
    assert (found.memory_mib, found.wall_s) == (64, None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("{ memory_mb = 5 }", "unknown field memory_mb"),
        ("{ memory_mib = 1 }", ">= 32"),
        ("{ wall_s = inf }", "finite"),
        ("{ wall_s = nan }", "> 0"),
        ("{ backend = 'x' }", "unknown field backend"),
        ("3", "object"),
    ],
)
def test_settings_when_a_plan_is_wrong_then_names_the_line_and_the_reason(
    tmp_path: Path, value: str, reason: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"[plans.pro]\nsandbox = {value}\n")
    assert "server.toml:2: plans.pro.sandbox" in caught.value.message
    assert reason in caught.value.message


def test_settings_when_a_variable_of_a_plan_is_no_json_then_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MONKEY_CODER__PLANS__PRO__SANDBOX"):
        loaded(tmp_path, FILE, MONKEY_CODER__PLANS__PRO__SANDBOX="{memory_mib")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    opened = await Database.open(tmp_path / "runs.db")
    yield opened
    await opened.close()


async def test_offer_when_the_user_has_a_plan_then_shows_its_limits(
    settings: Settings, db: Database
) -> None:
    service = SandboxService(runner_of(settings), settings, db)
    assert service.describe(of_plan("pro")).limits.memory_bytes == 1024 * MIB
    assert service.describe(of_plan("free")).limits.memory_bytes == 128 * MIB


async def test_run_when_the_plan_allows_more_then_a_request_may_ask_for_it_and_no_more(
    settings: Settings, db: Database
) -> None:
    backend = WaitingBackend()
    backend.go.set()
    runner = runner_of(settings, backend)
    await runner.start()
    service = SandboxService(runner, settings, db)
    program = Program(argv=("true",), limits={"memory_bytes": 512 * MIB, "workspace_files": 100})
    await service.run(of_plan("pro"), program)
    [request] = backend.requests
    limits = request.limits
    assert (limits.memory_bytes, limits.workspace_files, limits.wall_s) == (512 * MIB, 100, 60.0)
    with pytest.raises(InvalidInput, match=r"limits\.memory_bytes"):
        await service.run(of_plan("free"), program)
    for files in (15, 5000):
        wrong = Program(argv=("true",), limits={"workspace_files": files})
        with pytest.raises(InvalidInput, match=r"limits\.workspace_files"):
            await service.run(of_plan("pro"), wrong)
    await runner.close()


async def test_runs_when_the_plan_allows_one_at_once_then_others_runs_go_before_the_second(
    settings: Settings, db: Database
) -> None:
    backend = WaitingBackend()
    runner = runner_of(settings, backend)
    await runner.start()
    service = SandboxService(runner, settings, db)
    program = Program(argv=("true",))
    first = asyncio.create_task(service.run(of_plan("small"), program))
    await until(lambda: backend.running == 1)
    second = asyncio.create_task(service.run(of_plan("small"), program))
    others = asyncio.create_task(service.run(of_plan("free", number=2), program))
    await until(lambda: backend.running == 2)
    assert not second.done()
    backend.go.set()
    assert all(result.run.ok for result in await asyncio.gather(first, second, others))
    assert len(backend.requests) == 3
    assert backend.most == 2
    await runner.close()


async def test_runs_when_one_that_waited_for_the_user_is_cancelled_then_the_next_gets_its_turn(
    settings: Settings,
) -> None:
    backend = WaitingBackend()
    runner = runner_of(settings, backend)
    await runner.start()
    request = RunRequest(("true",))
    runs = [asyncio.create_task(runner.run_for_user(1, "small", request)) for _ in range(3)]
    await until(lambda: backend.running == 1)
    runs[1].cancel()
    backend.go.set()
    done = await asyncio.gather(*runs, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert len(backend.requests) == 2
    await runner.close()


async def test_queue_when_the_plan_lets_more_wait_then_only_its_users(
    settings: Settings, db: Database
) -> None:
    backend = WaitingBackend()
    runner = runner_of(settings, backend)
    await runner.start()
    service = SandboxService(runner, settings, db)
    program = Program(argv=("true",))

    async def fill(principal: Principal, count: int) -> list["asyncio.Task[list[Any]]"]:
        # Each run has its place in the queue once its events are open.
        opened = [await service.open_events(principal, program) for _ in range(count)]
        return [asyncio.create_task(read(events)) for events in opened]

    async def read(events: AsyncIterator[Any]) -> list[Any]:
        return [event async for event in events]

    busy = await fill(of_plan("free", number=9), 1)
    busy += await fill(of_plan("pro", number=8), 2)
    await until(lambda: backend.running == 3)
    waiting = await fill(of_plan("pro"), 2) + await fill(of_plan("free", number=2), 1)
    with pytest.raises(QueueFull, match=r"your part of the sandbox queue is full \(2 of 2\)"):
        await service.run(of_plan("pro"), program)
    with pytest.raises(
        QueueFull, match=r"your part of the sandbox queue is full \(1 of 1\)"
    ) as refused:
        await service.run(of_plan("free", number=2), program)
    assert refused.value.details["user_limit"] == 1
    backend.go.set()
    await asyncio.gather(*busy, *waiting)
    await runner.close()


async def test_task_when_its_user_has_a_plan_then_its_runs_have_that_plans_limits(
    settings: Settings,
) -> None:
    sandbox, user_ids = UnconfinedRunner(), list[int]()
    allowed = runner_of(settings).limits("pro")

    class AsAllowed(UnconfinedRunner):
        def limits(self) -> Limits:
            return allowed

    async def sandbox_for_user(user_id: int, _priority: Priority) -> UnconfinedRunner:
        user_ids.append(user_id)
        return users

    users = AsAllowed()
    answer = "```python\ndef add(a, b):\n    return a + b\n```"
    gateway = make_gateway(ScriptedProvider(answers_in_turn(answer)))
    request = TaskRequest(prompt="Write add such that add(1, 2) == 3", branches=1)
    agent = CodingAgent(gateway, sandbox, AgentSettings(), sandbox_for_user)
    result = await agent.run(MemoryContext(request))
    assert result.verification.ok
    assert user_ids == [1]
    assert sandbox.requests == []
    assert {request.limits.memory_bytes for request in users.requests} == {1024 * MIB}


async def test_tasks_sandbox_when_the_user_has_a_plan_then_limits_and_turns_are_the_users(
    settings: Settings,
) -> None:
    backend = WaitingBackend()
    runner = runner_of(settings, backend)
    await runner.start()
    sandbox = runner.for_user(1, "small")
    assert sandbox.status.available
    assert sandbox.limits() == runner.limits("small")
    runs = [asyncio.create_task(sandbox.run(RunRequest(("true",)))) for _ in range(2)]
    await until(lambda: backend.running == 1)
    await asyncio.sleep(0.02)  # the second must not start
    backend.go.set()
    assert all(result.ok for result in await asyncio.gather(*runs))
    assert backend.most == 1
    await runner.close()


def test_users_answer_when_the_user_has_a_plan_then_it_is_the_tier() -> None:
    assert user_answer(of_plan("enterprise").user).subscription_tier == "enterprise"


class Shell:
    """A command line; the streams of the last command are in `out` and `err`."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
    ) -> None:
        self._folder, self._patch, self._capture = folder, patch, capture
        self.out = self.err = ""

    def run(self, *argv: str, stdin: str = "") -> int:
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as exited:
            cli.run([*argv, "--data-dir", str(self._folder)])
        self.out, self.err = self._capture.readouterr()
        return int(exited.value.code or 0)

    def plans(self) -> dict[str, str]:
        assert self.run("user", "list", "--json") == 0
        return {user["username"]: user["plan"] for user in json.loads(self.out)}


@pytest.fixture
def shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    for name in ("DATABASE_URL", "JWT_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    return Shell(tmp_path / "data", monkeypatch, capsys)


def test_user_plan_when_given_then_stored_and_told_of_what_the_settings_lack(shell: Shell) -> None:
    add = ("user", "add", "--password-stdin")
    assert shell.run(*add, "alice", stdin=f"{PASSWORD}\n") == 0
    assert shell.err == ""
    assert shell.run(*add, "bob", "--plan", "Pro", stdin=f"{PASSWORD}\n") == 0
    assert "[plans.pro]" in shell.err
    assert shell.plans() == {"alice": "free", "bob": "pro"}
    assert shell.run("user", "plan", "alice", "enterprise") == 0
    assert shell.out == "alice has the plan enterprise\n"
    assert shell.plans()["alice"] == "enterprise"


@pytest.mark.parametrize("argv", [("alice", "a plan"), ("alice", ""), ("nobody", "pro")])
def test_user_plan_when_the_name_is_wrong_then_nothing_changes(
    shell: Shell, argv: tuple[str, str]
) -> None:
    assert shell.run("user", "add", "alice", "--password-stdin", stdin=f"{PASSWORD}\n") == 0
    assert shell.run("user", "plan", *argv) != 0
    assert shell.plans() == {"alice": "free"}
