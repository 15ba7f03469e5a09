"""Builds the messages that are sent to the model: request, repair, synthesis, test calls.

The texts are short and plain, so that a model of a hundred million parameters can follow them.
"""

from collections.abc import Sequence
from typing import Any, cast

from appliance.agents.code import languages
from appliance.agents.code.solution import AnswerTarget, Solution
from appliance.agents.code.stubs import Stub
from appliance.agents.prompting import personas
from appliance.agents.run.execution_plan import Shape
from appliance.agents.verification.verifier import Verdict
from appliance.domain.messages import Message, MessageRole
from appliance.domain.tasks import Persona, SourceFile, TaskRequest, TaskType

# Context keys in which clients describe themselves rather than the task.
_HIDDEN_CONTEXT_KEYS = {
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
_MAX_CONTEXT_LINES = 20
_TASK_INSTRUCTIONS = {
    TaskType.CODE_ANALYSIS: "Analyse this code: what it does, how it is built, its flaws.",
    TaskType.CODE_REVIEW: "Review this code.",
    TaskType.DOCUMENTATION: "Write the documentation for this code.",
    TaskType.DEBUGGING: "Find and fix the bug.",
    TaskType.REFACTORING: "Refactor this code without changing what it does.",
    TaskType.TESTING: "Write tests for this code.",
}


def build_request(
    request: TaskRequest, persona: Persona, shape: Shape, target: AnswerTarget
) -> list[Message]:
    """The messages of the first round, the same for every candidate."""
    system = personas.system_message(persona, request.instructions)
    stub = target.stub if shape is Shape.CODE else None
    parts = [
        _task_instruction(request),
        _stub_section(stub) if stub else request.prompt.strip(),
        _context_section(request.context),
        *(_file_section("", file) for file in request.files),
        *(_file_section("The code has to pass these tests. ", test) for test in request.tests),
        _answer_format(shape, target),
    ]
    user = Message(MessageRole.USER, "\n\n".join(part for part in parts if part))
    return [system, user] if system else [user]


def build_repair(
    first: Sequence[Message],
    solution: Solution,
    verdict: Verdict,
    output_characters: int,
    target: AnswerTarget,
) -> list[Message]:
    """The first messages, a failed candidate, and how it failed.

    At most `output_characters` of the failed run's output are quoted.
    """
    verification = verdict.verification
    answer = (
        f"```{solution.language or target.language}\n{solution.code}```"
        if solution.code
        else solution.text
    )
    parts = [
        f"This is not correct yet: {verification.summary}.",
        (
            f"```\n{verification.output[:output_characters]}\n```"
            if verification.output and output_characters
            else ""
        ),
        f"Correct it. {_answer_format(Shape.TESTS if target.writes_tests else Shape.CODE, target)}",
    ]
    return [
        *first,
        Message(MessageRole.ASSISTANT, answer),
        Message(MessageRole.USER, "\n\n".join(part for part in parts if part)),
    ]


def build_synthesis(
    first: Sequence[Message], solutions: Sequence[Solution], target: AnswerTarget
) -> list[Message]:
    """The first messages with several good candidates and the request to combine them."""
    shown = "\n\n".join(
        f"Solution {number}:\n```{target.language}\n{solution.code}```"
        for number, solution in enumerate(solutions, 1)
    )
    instruction = "Combine the best parts of these solutions into one correct, simple solution."
    answer_format = _answer_format(Shape.TESTS if target.writes_tests else Shape.CODE, target)
    last = first[-1]
    text = f"{last.content}\n\n{shown}\n\n{instruction} {answer_format}"
    return [*first[:-1], Message(MessageRole.USER, text)]


def build_call_request(code: str, name: str, count: int) -> list[Message]:
    """Asks for calls of a function with different arguments, to compare candidates on."""
    instruction = (
        f"Write {count} different calls of `{name}` with example arguments, edge cases too. "
        "One call per line, no results, no other text."
    )
    return [Message(MessageRole.USER, f"```python\n{code}```\n\n{instruction}")]


def _task_instruction(request: TaskRequest) -> str:
    """What to do with the caller's files in a task of this type; "" without files."""
    return _TASK_INSTRUCTIONS.get(request.task_type, "") if request.files else ""


def _stub_section(stub: Stub) -> str:
    """The prompt, rearranged around the function that it declares."""
    before = stub.before or "Complete the following Python function."
    return "\n\n".join(
        part for part in (before, f"```python\n{stub.source.strip()}\n```", stub.after) if part
    )


def _context_section(context: dict[str, Any]) -> str:
    lines = [
        f"{key}: {_format_value(value)}"
        for key, value in list(context.items())[:_MAX_CONTEXT_LINES]
        if key not in _HIDDEN_CONTEXT_KEYS and _format_value(value)
    ]
    return "\n".join(lines)


def _format_value(value: Any) -> str:
    """A context value as text; nested objects are left out."""
    if isinstance(value, list):
        return ", ".join(filter(None, (_format_value(item) for item in cast("list[Any]", value))))
    return "" if value is None or isinstance(value, dict) else str(value)


def _file_section(label: str, file: SourceFile) -> str:
    language = languages.detect_from_path(file.path) or ""
    # A fence longer than any in the file, so that the file's content can't close it.
    fence = "```"
    while fence in file.content:
        fence += "`"
    return f"{label}`{file.path}`:\n{fence}{language}\n{file.content.rstrip()}\n{fence}"


def _answer_format(shape: Shape, target: AnswerTarget) -> str:
    if shape is Shape.TEXT:
        return ""
    if shape is Shape.TESTS:
        framework = " with pytest" if target.language == languages.PYTHON else ""
        imports = f" Import what you test from `{target.files[0].path}`." if target.files else ""
        return f"Answer with the tests{framework} in one ```{target.language} block.{imports}"
    if target.stub is not None:
        return f"Answer with the whole function in one ```{target.language} block."
    if len(target.files) > 1:
        return (
            "Answer with each file that you change, whole, in a code block of its own, "
            "and its path on the line before the block."
        )
    return f"Answer with the complete code in one ```{target.language} block."
