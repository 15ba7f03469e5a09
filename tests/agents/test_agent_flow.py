"""A task from its request to its answer, and the events in its journal."""

import asyncio

import pytest

from appliance.config.settings import AgentSettings
from appliance.domain.messages import MessageRole
from appliance.domain.tasks import (
    BranchStatus,
    CollapseStrategy,
    ExecuteEvent,
    SourceFile,
    TaskType,
    VerificationLevel,
)
from appliance.errors import (
    DeadlineExceeded,
    ProviderFailed,
)
from tests.support.addition_task import BAD, BROKEN, GOOD, LONGER, TESTS, make_request
from tests.support.agent_fakes import (
    MemoryContext,
    ScriptedProvider,
    UnconfinedRunner,
    answers_in_turn,
    run_agent,
    user_text,
)


async def test_run_when_one_candidate_is_right_then_it_is_the_answer() -> None:
    provider, context = (
        ScriptedProvider(answers_in_turn(BAD, GOOD, BAD)),
        MemoryContext(make_request()),
    )
    result = await run_agent(provider, context)
    assert result.code == "def add(a, b):\n    return a + b\n"
    assert result.files == (SourceFile("solution.py", "def add(a, b):\n    return a + b\n"),)
    assert (result.verification.level, result.verification.score) == (VerificationLevel.EXAMPLES, 1)
    assert result.chosen is not None
    assert result.branches[result.chosen].verification.ok
    assert sorted(b.verification.score or 0 for b in result.branches) == [0.5, 0.5, 1]
    assert result.usage.completion_tokens == sum(b.usage.completion_tokens for b in result.branches)
    assert (
        len(context.event_data(ExecuteEvent.CANDIDATE))
        == len(context.event_data(ExecuteEvent.VERDICT))
        == 3
    )
    assert context.event_data(ExecuteEvent.CODE) == [{"content": result.code}]


async def test_run_when_branches_run_then_they_differ_in_seed_and_the_first_is_greedy() -> None:
    provider = ScriptedProvider(answers_in_turn(GOOD))
    await run_agent(provider, MemoryContext(make_request(temperature=0.7, seed=5)))
    assert sorted(r.sampling.temperature or 0.0 for r in provider.requests) == [0.0, 0.7, 0.7]
    assert len({r.sampling.seed for r in provider.requests}) == 3
    assert {r.owner for r in provider.requests} == {"user:1"}
    assert len({r.messages for r in provider.requests}) == 1


async def test_run_when_the_same_seed_is_asked_for_then_the_draws_are_the_same() -> None:
    draws: list[list[str]] = []
    for _ in range(2):
        provider = ScriptedProvider(answers_in_turn(GOOD))
        await run_agent(provider, MemoryContext(make_request(seed=5)))
        draws.append(sorted(str(r.sampling) for r in provider.requests))
    assert draws[0] == draws[1]


async def test_run_when_tests_are_sent_then_they_decide_and_name_the_file() -> None:
    provider = ScriptedProvider(answers_in_turn(BAD, GOOD, BROKEN))
    runner = UnconfinedRunner(wall_s=60)
    result = await run_agent(
        provider, MemoryContext(make_request("Write add", tests=TESTS)), runner=runner
    )
    assert result.verification.level is VerificationLevel.CALLER_TESTS
    assert (result.verification.passed, result.verification.failed) == (2, 0)
    assert [file.path for file in result.files] == ["calc.py"]
    assert sorted(b.verification.passed for b in result.branches) == [0, 1, 2]


async def test_run_when_several_pass_then_the_smallest_change_wins() -> None:
    result = await run_agent(
        ScriptedProvider(answers_in_turn(LONGER, GOOD, LONGER)), MemoryContext(make_request())
    )
    assert result.code == "def add(a, b):\n    return a + b\n"


async def test_run_when_nothing_passes_then_failures_are_fed_back() -> None:
    provider, context = (
        ScriptedProvider(answers_in_turn(BAD, BAD, GOOD, BAD)),
        MemoryContext(make_request(branches=2)),
    )
    result = await run_agent(provider, context)
    assert result.verification.ok
    assert [(b.round, b.index) for b in result.branches] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    repair = provider.requests[2]
    assert [m.role for m in repair.messages][-2:] == [MessageRole.ASSISTANT, MessageRole.USER]
    assert "add(1, 2) gave -1, expected 3" in repair.messages[-1].content
    assert "return a - b" in repair.messages[-2].content


async def test_run_when_nothing_ever_passes_then_the_best_is_returned_with_its_score() -> None:
    provider = ScriptedProvider(answers_in_turn(BROKEN, BAD))
    result = await run_agent(provider, MemoryContext(make_request(branches=2)))
    assert result.verification.score == 0.5
    assert any("no candidate passed" in warning for warning in result.warnings)
    assert len(provider.requests) == 4


async def test_run_when_repair_is_off_then_there_is_one_round() -> None:
    provider = ScriptedProvider(answers_in_turn(BAD))
    settings = AgentSettings(repair_rounds=0)
    await run_agent(provider, MemoryContext(make_request(branches=2)), settings=settings)
    assert len(provider.requests) == 2


async def test_run_when_the_first_success_is_enough_then_the_others_are_stopped() -> None:
    never = asyncio.Event()
    provider = ScriptedProvider(answers_in_turn(GOOD, never))
    request = make_request(strategy=CollapseStrategy.FIRST_SUCCESS)
    result = await run_agent(provider, MemoryContext(request))
    assert result.verification.ok
    statuses = [b.status for b in result.branches]
    assert statuses == [BranchStatus.COMPLETED, BranchStatus.CANCELLED, BranchStatus.CANCELLED]
    assert provider.ended == 3


async def test_run_when_one_branch_fails_then_the_others_answer() -> None:
    provider = ScriptedProvider(answers_in_turn(ProviderFailed("the engine died"), GOOD))
    result = await run_agent(provider, MemoryContext(make_request()))
    assert result.verification.ok
    failed = [b for b in result.branches if b.status is BranchStatus.FAILED]
    assert [b.problem for b in failed] == ["the engine died"]


async def test_run_when_every_branch_fails_then_the_task_fails_with_the_reason() -> None:
    with pytest.raises(ProviderFailed, match="the engine died"):
        await run_agent(
            ScriptedProvider(answers_in_turn(ProviderFailed("the engine died"))),
            MemoryContext(make_request()),
        )


async def test_run_when_cancelled_then_every_stream_is_closed() -> None:
    provider = ScriptedProvider(answers_in_turn(asyncio.Event()))
    running = asyncio.create_task(run_agent(provider, MemoryContext(make_request())))
    while len(provider.requests) < 3:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert provider.ended == 3


async def test_run_when_time_runs_out_then_the_finished_candidates_decide() -> None:
    provider = ScriptedProvider(answers_in_turn(GOOD, asyncio.Event()))
    result = await run_agent(provider, MemoryContext(make_request(), seconds=3.0))
    assert result.verification.ok
    late = [b for b in result.branches if b.status is BranchStatus.CANCELLED]
    assert len(late) == 2
    assert "not finished in the time" in late[0].problem


async def test_run_when_nothing_was_finished_in_time_then_the_deadline_is_the_reason() -> None:
    with pytest.raises(DeadlineExceeded, match="no candidate was finished"):
        await run_agent(
            ScriptedProvider(answers_in_turn(asyncio.Event())),
            MemoryContext(make_request(), seconds=0.2),
        )


async def test_run_when_there_is_nothing_to_check_against_then_candidates_are_compared() -> None:
    provider = ScriptedProvider(
        answers_in_turn(GOOD, LONGER, BAD, "add(1, 2)\nadd(5, 6)\nadd(x, 1)")
    )
    context = MemoryContext(make_request("Write a Python function add"))
    result = await run_agent(provider, context)
    assert result.verification.level is VerificationLevel.GENERATED_TESTS
    assert result.verification.passed == 2
    assert result.code == "def add(a, b):\n    return a + b\n"
    assert sorted(b.verification.passed for b in result.branches) == [0, 2, 2]
    # What asking for the calls used is part of the whole.
    assert result.usage.completion_tokens > sum(b.usage.completion_tokens for b in result.branches)


async def test_run_when_candidates_can_not_be_compared_then_only_the_syntax_is_claimed() -> None:
    provider = ScriptedProvider(
        answers_in_turn("```python\nprint(1)\n```", "```python\nx = 2\n```")
    )
    result = await run_agent(
        provider, MemoryContext(make_request("Write a Python script", branches=2))
    )
    assert result.verification.level is VerificationLevel.SYNTAX
    assert result.verification.score is None
    assert result.verification.passed == 1


async def test_run_when_candidates_are_combined_then_a_worse_combination_is_not_taken() -> None:
    for merged, chosen in ((BAD, GOOD), (LONGER, LONGER)):
        provider = ScriptedProvider(answers_in_turn(GOOD, LONGER, merged))
        request = make_request(branches=2, strategy=CollapseStrategy.COMBINED)
        result = await run_agent(provider, MemoryContext(request))
        assert result.text == chosen
        assert len(result.branches) == 3
        assert "Solution 2" in user_text(provider.requests[2])


async def test_run_when_outputs_agree_then_consensus_prefers_them() -> None:
    two = "```python\ndef add(a, b):\n    return {}\n```"
    answers = answers_in_turn(two.format("a * b"), two.format("-1"), two.format("a * b * 1"))
    request = make_request(strategy=CollapseStrategy.CONSENSUS)
    result = await run_agent(
        ScriptedProvider(answers), MemoryContext(request), settings=AgentSettings(repair_rounds=0)
    )
    assert "a * b" in (result.code or "")


async def test_run_when_tests_are_requested_then_they_are_run_against_the_files() -> None:
    files = (SourceFile("calc.py", "def add(a, b):\n    return a + b\n"),)
    right = "```python\nfrom calc import add\n\ndef test_add():\n    assert add(1, 2) == 3\n```"
    wrong = right.replace("== 3", "== 4")
    empty = "```python\nfrom calc import add\n\ndef test_add():\n    add(1, 2)\n```"
    request = make_request("Write tests", task_type=TaskType.TESTING, files=files)
    result = await run_agent(
        ScriptedProvider(answers_in_turn(wrong, empty, right)),
        MemoryContext(request),
        runner=UnconfinedRunner(wall_s=60),
    )
    assert result.tests is not None
    assert "== 3" in result.tests
    assert result.verification.level is VerificationLevel.GENERATED_TESTS
    assert [b.verification.passed for b in result.branches] == [0, 0, 1]
    assert [file.path for file in result.files] == ["test_calc.py"]


async def test_run_when_a_file_is_debugged_then_the_tests_run_over_the_whole_workspace() -> None:
    files = (
        SourceFile(
            "calc.py",
            "from util import plus\n\n"
            "def add(a, b):\n    return a - b\n\ndef two():\n    return 2\n",
        ),
        SourceFile("util.py", "def plus(a, b):\n    return a + b\n"),
        *TESTS,
    )
    fix = "```python\ndef add(a, b):\n    return plus(a, b)\n```"
    request = make_request("add is wrong", task_type=TaskType.DEBUGGING, files=files, branches=1)
    result = await run_agent(
        ScriptedProvider(answers_in_turn(fix)),
        MemoryContext(request),
        runner=UnconfinedRunner(wall_s=60),
    )
    assert result.verification.level is VerificationLevel.CALLER_TESTS
    assert result.verification.ok
    assert [file.path for file in result.files] == ["calc.py"]
    assert "def two()" in result.files[0].content
