"""Conversion of bodies to tasks and of tasks to answers, for every shape and alias."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.api.monkey import task_answers
from appliance.api.monkey.schemas import ExecuteBody
from appliance.api.monkey.task_convert import task_request
from appliance.api.monkey.task_names import SLASH_COMMANDS, split_command
from appliance.domain.tasks import (
    CollapseStrategy,
    Persona,
    Priority,
    SourceFile,
    Task,
    TaskFailure,
    TaskKind,
    TaskOrigin,
    TaskRequest,
    TaskStatus,
    TaskType,
)
from appliance.errors import InvalidInput
from tests.api.scripted_tasks import RESULT

SNAPSHOTS = Path(__file__).parent / "snapshots"


def converted(**body: Any) -> TaskRequest:
    return task_request(msgspec.convert(body, ExecuteBody))


def expected(prompt: str = "x", **fields: Any) -> TaskRequest:
    return TaskRequest(prompt=prompt, priority=Priority.INTERACTIVE, **fields)


REQUESTS: dict[str, tuple[dict[str, Any], TaskRequest]] = {
    "the least": ({"prompt": " x \n"}, expected()),
    "task": (
        {
            "task": "Implement an endpoint",
            "persona": "developer",
            "provider": "llama_cpp",
            "stream": False,
            "files": [{"path": "app.py", "content": "# code"}],
            "context": {"project_type": "flask", "requirements": ["security"]},
        },
        expected(
            "Implement an endpoint",
            persona=Persona.DEVELOPER,
            provider="llama_cpp",
            files=(SourceFile("app.py", "# code"),),
            context={"project_type": "flask", "requirements": ["security"]},
        ),
    ),
    "persona_config": (
        {
            "task_id": "unique-task-id",
            "task_type": "code_analysis",
            "prompt": "Review this",
            "files": [{"name": "app.py", "content": ""}],
            "context": {"user_id": "u", "session_id": "s", "environment": "api"},
            "persona_config": {"persona": "reviewer", "slash_commands": []},
        },
        expected(
            "Review this",
            client_task_id="unique-task-id",
            task_type=TaskType.CODE_ANALYSIS,
            persona=Persona.REVIEWER,
            files=(SourceFile("app.py", ""),),
        ),
    ),
    "context.persona": (
        {
            "task_type": "implement",
            "prompt": "A component",
            "files": [],
            "context": {"persona": "developer", "framework": "react"},
        },
        expected("A component", persona=Persona.DEVELOPER, context={"framework": "react"}),
    ),
    "query": ({"query": "x"}, expected()),
    "a command over the persona": (
        {"prompt": "/sec x", "persona": "developer"},
        expected(persona=Persona.SECURITY_ANALYST, task_type=TaskType.CODE_REVIEW),
    ),
    "a path that is no command": ({"prompt": "/etc/hosts: x"}, expected("/etc/hosts: x")),
    "a custom persona": (
        {"prompt": "x", "persona_config": {"persona": "custom", "custom_instructions": "Be brief"}},
        expected(persona=Persona.CUSTOM, task_type=TaskType.CUSTOM, instructions="Be brief"),
    ),
    "a command in the persona's config": (
        {"prompt": "x", "superclause_config": {"slash_commands": ["/docs"]}},
        expected(persona=Persona.TECHNICAL_WRITER, task_type=TaskType.DOCUMENTATION),
    ),
    "three configs": (
        {
            "prompt": "x",
            "orchestration_config": {"strategy": "parallel", "max_branches": 4},
            "quantum_config": {"collapse_strategy": "first_success", "temperature": 0.8},
            "monkey1_config": {"agent_count": 3, "num_variations": 6, "timeout": 30, "seed": 7},
        },
        expected(
            branches=6,
            strategy=CollapseStrategy.FIRST_SUCCESS,
            temperature=0.8,
            timeout_s=30.0,
            seed=7,
        ),
    ),
    "a strategy by its short name": (
        {"prompt": "x", "quantum_config": {"n": 2, "strategy": "best-score"}},
        expected(branches=2, strategy=CollapseStrategy.BEST_SCORE),
    ),
    "options in the context": (
        {"prompt": "x", "context": {"temperature": 0.1, "max_tokens": 99, "timeout": 305}},
        expected(temperature=0.1, max_tokens=99, timeout_s=305.0),
    ),
    "options on top": (
        {"prompt": "x", "temperature": 0, "context": {"temperature": 0.9}, "max_tokens": 5},
        expected(temperature=0.0, max_tokens=5),
    ),
    "tests as text": (
        {"prompt": "x", "tests": "def test_a(): ..."},
        expected(tests=(SourceFile("test_request.py", "def test_a(): ..."),)),
    ),
    "tests in the context": (
        {"prompt": "x", "context": {"tests": [{"name": "test_a.py", "content": "a"}]}},
        expected(tests=(SourceFile("test_a.py", "a"),)),
    ),
    "tests among the files": (
        {
            "prompt": "x",
            "task_type": "fix",
            "files": [
                {"path": "a.py", "content": "a"},
                {"path": "tests/test_a.py", "content": "b"},
                {"path": "a_test.py", "content": "c"},
                {"path": "latest.py", "content": "d"},
            ],
        },
        expected(
            task_type=TaskType.DEBUGGING,
            files=(SourceFile("a.py", "a"), SourceFile("latest.py", "d")),
            tests=(SourceFile("tests/test_a.py", "b"), SourceFile("a_test.py", "c")),
        ),
    ),
    "labels": (
        {"prompt": "x", "labels": ["b", " a b ", "b"]},
        expected(labels=("b", "a b")),
    ),
    "no labels": ({"prompt": "x", "labels": None}, expected()),
    "tests to look at": (
        {"prompt": "x", "task_type": "review", "files": [{"path": "test_a.py", "content": "b"}]},
        expected(task_type=TaskType.CODE_REVIEW, files=(SourceFile("test_a.py", "b"),)),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_request_when_converted_then_exactly_this_task(name: str) -> None:
    body, task = REQUESTS[name]
    assert converted(**body) == task


def test_labels_when_also_beside_the_body_then_each_once() -> None:
    body = msgspec.convert({"prompt": "x", "labels": ["a", "b"]}, ExecuteBody)
    assert task_request(body, labels=("b", "c")).labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("word", "task_type"),
    [
        ("implement", TaskType.CODE_GENERATION),
        ("Generate", TaskType.CODE_GENERATION),
        ("analyze", TaskType.CODE_ANALYSIS),
        ("code-review", TaskType.CODE_REVIEW),
        ("document", TaskType.DOCUMENTATION),
        ("test", TaskType.TESTING),
        ("debug", TaskType.DEBUGGING),
        ("fix", TaskType.DEBUGGING),
        ("refactor", TaskType.REFACTORING),
        ("chat", TaskType.CUSTOM),
        *((str(each), each) for each in TaskType),
    ],
)
def test_task_type_when_named_naturally_then_known(word: str, task_type: TaskType) -> None:
    assert converted(prompt="x", task_type=word).task_type is task_type


@pytest.mark.parametrize("persona", list(Persona))
def test_persona_when_named_then_known(persona: Persona) -> None:
    assert converted(prompt="x", persona=persona.upper()).persona is persona
    assert converted(prompt="x", context={"persona": persona}).persona is persona


@pytest.mark.parametrize(
    ("prompt", "result"),
    [
        ("/dev make it", (Persona.DEVELOPER, "make it")),
        ("  /ARCH\nmake it", (Persona.ARCHITECT, "make it")),
        ("/review\tthis file", (Persona.REVIEWER, "this file")),
        ("/perf", (Persona.PERFORMANCE_EXPERT, "")),
        ("/devour it", (None, "/devour it")),
        ("make /dev it", (None, "make /dev it")),
        ("/test\n\n  indented", (Persona.TESTER, "indented")),
    ],
)
def test_command_when_at_the_start_then_chooses_and_is_stripped(
    prompt: str, result: tuple[Persona | None, str]
) -> None:
    assert split_command(prompt) == result


def test_commands_when_listed_then_every_named_persona_has_short_and_long_ones() -> None:
    words = {word for commands in SLASH_COMMANDS.values() for word in commands}
    assert {"/dev", "/arch", "/review", "/security", "/perf", "/test", "/docs"} <= words
    assert set(SLASH_COMMANDS) == set(Persona) - {Persona.CUSTOM}
    assert sum(map(len, SLASH_COMMANDS.values())) == len(words)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "prompt"),
        ({"task": ""}, "prompt"),
        ({"prompt": "x", "persona": "king"}, "persona"),
        ({"prompt": "x", "superclause_config": {"persona": "x"}}, "superclause_config.persona"),
        ({"prompt": "x", "context": {"persona": "king"}}, "context.persona"),
        ({"prompt": "x", "context": {"persona": 3}}, "context.persona"),
        ({"prompt": "x", "context": {"tests": 3}}, "context.tests"),
        ({"prompt": "x", "context": {"tests": [{"name": "a"}]}}, "context.tests[0].content"),
        ({"prompt": "x", "context": {"timeout": 0}}, "context.timeout"),
        ({"prompt": "x", "task_type": "juggle"}, "task_type"),
        ({"prompt": "x", "quantum_config": {"strategy": "guess"}}, "strategy"),
        ({"prompt": "x", "tests": [{"content": ""}]}, "tests[0].path"),
    ],
)
def test_request_when_wrong_then_the_field_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        converted(**body)
    assert caught.value.details["field"] == field
    assert caught.value.message.startswith(f"{field}: ")


def task(**fields: Any) -> Task:
    base = Task(
        id=7,
        public_id="task_1",
        user_id=1,
        kind=TaskKind.EXECUTE,
        origin=TaskOrigin.MONKEY,
        request=TaskRequest(prompt="p" * 300, persona=Persona.DEVELOPER),
        status=TaskStatus.COMPLETED,
        attempt=1,
        created_at=1_800_000_000.0,
        updated_at=1_800_000_002.5,
        started_at=1_800_000_000.25,
        finished_at=1_800_000_002.5,
        result=RESULT,
    )
    return msgspec.structs.replace(base, **fields)


TASKS: dict[str, Task] = {
    "completed": task(),
    "failed": task(
        status=TaskStatus.FAILED,
        result=None,
        failure=TaskFailure("PROVIDER_ERROR", "the engine died", {"attempts": 3}),
    ),
    "cancelled": task(status=TaskStatus.CANCELLED, result=None),
    "pending": task(
        status=TaskStatus.QUEUED, result=None, started_at=None, finished_at=None, attempt=0
    ),
    "text_only": task(
        result=msgspec.structs.replace(
            RESULT,
            code=None,
            files=(),
            tests=None,
            chosen=None,
            branches=(),
            language=None,
            usage_by_model=(),
        )
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_answer_when_converted_then_as_in_the_snapshot(name: str) -> None:
    answer = msgspec.to_builtins(task_answers.execute_answer(TASKS[name]))
    assert answer == json.loads((SNAPSHOTS / f"{name}.json").read_text())


def test_list_when_converted_then_as_in_the_snapshot() -> None:
    answer = msgspec.to_builtins(task_answers.task_list(list(TASKS.values()), "next"))
    assert answer == json.loads((SNAPSHOTS / "list.json").read_text())
