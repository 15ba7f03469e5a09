"""What the model is told: the persona, the request, and the caller's files and tests.

Short and plain, so that a model of a hundred million parameters can follow it as well.
"""

from collections.abc import Sequence
from typing import Any, cast

from appliance.agents.code import languages
from appliance.agents.code.solution import Aim, Solution
from appliance.agents.code.stubs import Stub
from appliance.agents.prompting import personas
from appliance.agents.run.plan import Shape
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import Message, MessageRole
from appliance.domain.tasks import Persona, SourceFile, TaskRequest, TaskType

# What clients send along about themselves; it says nothing about the task.
_NOT_SHOWN = {
    "user_id",
    "session_id",
    "workspace_id",
    "request_id",
    "environment",
    "persona",
    "timeout",
    "max_tokens",
    "temperature",
    "client",
    "timestamp",
}
_CONTEXT_KEPT = 20
_DUTIES = {
    TaskType.CODE_ANALYSIS: "Analyse this code: what it does, how it is built, its flaws.",
    TaskType.CODE_REVIEW: "Review this code.",
    TaskType.DOCUMENTATION: "Write the documentation for this code.",
    TaskType.DEBUGGING: "Find and fix the bug.",
    TaskType.REFACTORING: "Refactor this code without changing what it does.",
    TaskType.TESTING: "Write tests for this code.",
}


def of_request(request: TaskRequest, persona: Persona, shape: Shape, aim: Aim) -> list[Message]:
    """The messages of the first round; every candidate gets the same."""
    system = personas.system_prompt(persona, request.instructions)
    stub = aim.stub if shape is Shape.CODE else None
    parts = [
        _duty(request),
        _declared(stub) if stub else request.prompt.strip(),
        _context(request.context),
        *(_file("", file) for file in request.files),
        *(_file("The code has to pass these tests. ", test) for test in request.tests),
        _closing(shape, aim),
    ]
    user = "\n\n".join(part for part in parts if part)
    messages = [Message(MessageRole.SYSTEM, system)] if system else []
    return [*messages, Message(MessageRole.USER, user)]


def of_repair(
    first: Sequence[Message], solution: Solution, verdict: Verdict, room: int, aim: Aim
) -> list[Message]:
    """The first messages, a candidate that failed, and what it failed at.

    `room` is how many characters of the failure's output are shown: its end.
    """
    seen = verdict.verification
    said = (
        f"```{solution.language or aim.language}\n{solution.code}```"
        if solution.code
        else solution.text
    )
    parts = [
        f"This is not correct yet: {seen.summary}.",
        f"```\n{seen.output[:room]}\n```" if seen.output and room else "",
        f"Correct it. {_closing(Shape.TESTS if aim.writes_tests else Shape.CODE, aim)}",
    ]
    return [
        *first,
        Message(MessageRole.ASSISTANT, said),
        Message(MessageRole.USER, "\n\n".join(part for part in parts if part)),
    ]


def of_merge(first: Sequence[Message], solutions: Sequence[Solution], aim: Aim) -> list[Message]:
    """The first messages, several good candidates, and the wish for one made of them."""
    shown = "\n\n".join(
        f"Solution {number}:\n```{aim.language}\n{solution.code}```"
        for number, solution in enumerate(solutions, 1)
    )
    wish = "Combine the best parts of these solutions into one correct, simple solution."
    closing = _closing(Shape.TESTS if aim.writes_tests else Shape.CODE, aim)
    last = first[-1]
    text = f"{last.content}\n\n{shown}\n\n{wish} {closing}"
    return [*first[:-1], Message(MessageRole.USER, text)]


def of_inputs(code: str, name: str, count: int) -> list[Message]:
    """Asks for calls of a function with different arguments: the tests that the model writes."""
    wish = (
        f"Write {count} different calls of `{name}` with example arguments, edge cases too. "
        "One call per line, no results, no other text."
    )
    return [Message(MessageRole.USER, f"```python\n{code}```\n\n{wish}")]


def _duty(request: TaskRequest) -> str:
    """What this type of task is about, where files have been sent along."""
    return _DUTIES.get(request.task_type, "") if request.files else ""


def _declared(stub: Stub) -> str:
    """A request whose prompt declares the function to write."""
    before = stub.before or "Complete the following Python function."
    return "\n\n".join(
        part for part in (before, f"```python\n{stub.source.strip()}\n```", stub.after) if part
    )


def _context(context: dict[str, Any]) -> str:
    lines = [
        f"{key}: {_plain(value)}"
        for key, value in list(context.items())[:_CONTEXT_KEPT]
        if key not in _NOT_SHOWN and _plain(value)
    ]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    """A value of the context in words; nested objects are not shown."""
    if isinstance(value, list):
        return ", ".join(filter(None, (_plain(item) for item in cast("list[Any]", value))))
    return "" if value is None or isinstance(value, dict) else str(value)


def _file(label: str, file: SourceFile) -> str:
    language = languages.of_path(file.path) or ""
    # A fence longer than any in the file, so that the file can't end it.
    mark = "```"
    while mark in file.content:
        mark += "`"
    return f"{label}`{file.path}`:\n{mark}{language}\n{file.content.rstrip()}\n{mark}"


def _closing(shape: Shape, aim: Aim) -> str:
    if shape is Shape.TEXT:
        return ""
    if shape is Shape.TESTS:
        framework = " with pytest" if aim.language == languages.PYTHON else ""
        imports = f" Import what you test from `{aim.files[0].path}`." if aim.files else ""
        return f"Answer with the tests{framework} in one ```{aim.language} block.{imports}"
    if aim.stub is not None:
        return f"Answer with the whole function in one ```{aim.language} block."
    if len(aim.files) > 1:
        return (
            "Answer with each file that you change, whole, in a code block of its own, "
            "and its path on the line before the block."
        )
    return f"Answer with the complete code in one ```{aim.language} block."
