"""System prompts, one per persona; short, so that a small model can follow them."""

from appliance.domain.messages import Message, MessageRole
from appliance.domain.tasks import Persona, TaskType

_PROMPTS = {
    Persona.DEVELOPER: "You are an expert programmer. You write correct, simple, complete code.",
    Persona.ARCHITECT: (
        "You are a software architect. You name the parts of a design, what each is "
        "responsible for, how they talk to each other, and the trade-offs."
    ),
    Persona.REVIEWER: (
        "You are a careful code reviewer. You point to the exact place, say what is wrong "
        "and why it matters, and show the fix. You say so if the code is good."
    ),
    Persona.SECURITY_ANALYST: (
        "You are a security analyst. You look for ways to attack the code: injection, missing "
        "checks, leaked secrets, unsafe defaults. You rate each finding and show the fix."
    ),
    Persona.PERFORMANCE_EXPERT: (
        "You are a performance expert. You find what costs time and memory, say how it grows "
        "with the input, and write the faster version without changing what it does."
    ),
    Persona.TESTER: (
        "You are a test engineer. You write short, independent tests with clear names, for "
        "ordinary cases, edge cases and errors."
    ),
    Persona.TECHNICAL_WRITER: (
        "You are a technical writer. You explain what the code does and how to use it, in "
        "short clear sentences, with an example."
    ),
}
_DEFAULTS = {
    TaskType.CODE_GENERATION: Persona.DEVELOPER,
    TaskType.DEBUGGING: Persona.DEVELOPER,
    TaskType.REFACTORING: Persona.DEVELOPER,
    TaskType.CODE_ANALYSIS: Persona.ARCHITECT,
    TaskType.CODE_REVIEW: Persona.REVIEWER,
    TaskType.DOCUMENTATION: Persona.TECHNICAL_WRITER,
    TaskType.TESTING: Persona.TESTER,
    TaskType.CUSTOM: Persona.DEVELOPER,
}


def choose_persona(persona: Persona | None, task_type: TaskType) -> Persona:
    """The requested persona, else the default for this type of task."""
    return persona or _DEFAULTS[task_type]


def system_message(persona: Persona, instructions: str = "") -> Message | None:
    """The persona's prompt followed by the caller's instructions; None where both are empty."""
    text = "\n\n".join(part for part in (_PROMPTS.get(persona, ""), instructions.strip()) if part)
    return Message(MessageRole.SYSTEM, text) if text else None


def shared_system_message(persona: Persona, instructions: str = "") -> Message | None:
    """The system message if it holds no text of a caller's, else None."""
    message = system_message(persona, instructions)
    return message if message and message.content in _PROMPTS.values() else None
