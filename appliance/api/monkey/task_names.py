"""Client names of personas, task types, strategies, kinds and origins."""

from enum import StrEnum
from typing import TypeVar

from appliance.domain.tasks import CollapseStrategy, Persona, TaskKind, TaskOrigin, TaskType
from appliance.errors import InvalidInput

E = TypeVar("E", bound=StrEnum)

SLASH_COMMANDS: dict[Persona, tuple[str, ...]] = {
    Persona.DEVELOPER: ("/dev", "/develop", "/developer", "/code", "/implement"),
    Persona.ARCHITECT: ("/arch", "/architect", "/architecture", "/design"),
    Persona.REVIEWER: ("/review", "/reviewer"),
    Persona.SECURITY_ANALYST: ("/security", "/sec", "/security_analyst"),
    Persona.PERFORMANCE_EXPERT: ("/perf", "/performance", "/optimize", "/performance_expert"),
    Persona.TESTER: ("/test", "/tests", "/tester", "/testing"),
    Persona.TECHNICAL_WRITER: ("/docs", "/doc", "/documentation", "/technical_writer"),
}
_BY_COMMAND = {word: persona for persona, words in SLASH_COMMANDS.items() for word in words}

_PERSONAS: dict[str, Persona] = {
    **{word.removeprefix("/"): persona for word, persona in _BY_COMMAND.items()},
    "coder": Persona.DEVELOPER,
    "engineer": Persona.DEVELOPER,
    "code_reviewer": Persona.REVIEWER,
    "security_expert": Persona.SECURITY_ANALYST,
    "performance_engineer": Persona.PERFORMANCE_EXPERT,
    "qa": Persona.TESTER,
    "writer": Persona.TECHNICAL_WRITER,
    "documenter": Persona.TECHNICAL_WRITER,
}
_TASK_TYPES: dict[str, TaskType] = {
    "implement": TaskType.CODE_GENERATION,
    "implementation": TaskType.CODE_GENERATION,
    "generate": TaskType.CODE_GENERATION,
    "generation": TaskType.CODE_GENERATION,
    "create": TaskType.CODE_GENERATION,
    "build": TaskType.CODE_GENERATION,
    "code": TaskType.CODE_GENERATION,
    "analyze": TaskType.CODE_ANALYSIS,
    "analyse": TaskType.CODE_ANALYSIS,
    "analysis": TaskType.CODE_ANALYSIS,
    "explain": TaskType.CODE_ANALYSIS,
    "review": TaskType.CODE_REVIEW,
    "document": TaskType.DOCUMENTATION,
    "docs": TaskType.DOCUMENTATION,
    "test": TaskType.TESTING,
    "tests": TaskType.TESTING,
    "debug": TaskType.DEBUGGING,
    "fix": TaskType.DEBUGGING,
    "bugfix": TaskType.DEBUGGING,
    "refactor": TaskType.REFACTORING,
    "optimize": TaskType.REFACTORING,
    "chat": TaskType.CUSTOM,
    "ask": TaskType.CUSTOM,
}
_STRATEGIES: dict[str, CollapseStrategy] = {
    "best": CollapseStrategy.BEST_SCORE,
    "first": CollapseStrategy.FIRST_SUCCESS,
    "weighted": CollapseStrategy.WEIGHTED_AVERAGE,
    "majority": CollapseStrategy.CONSENSUS,
    "combine": CollapseStrategy.COMBINED,
}
_DEFAULT_TASK_TYPES: dict[Persona, TaskType] = {
    Persona.REVIEWER: TaskType.CODE_REVIEW,
    Persona.SECURITY_ANALYST: TaskType.CODE_REVIEW,
    Persona.PERFORMANCE_EXPERT: TaskType.CODE_ANALYSIS,
    Persona.TESTER: TaskType.TESTING,
    Persona.TECHNICAL_WRITER: TaskType.DOCUMENTATION,
    Persona.CUSTOM: TaskType.CUSTOM,
}


def split_command(prompt: str) -> tuple[Persona | None, str]:
    """The persona of a leading slash command, and the prompt without the command."""
    text = prompt.strip()
    word = text.split(maxsplit=1)[0] if text else ""
    persona = _BY_COMMAND.get(word.lower())
    return (persona, text[len(word) :].strip()) if persona else (None, text)


def parse_persona(field: str, name: str) -> Persona:
    """Raises InvalidInput with the allowed names."""
    return _parse(Persona, _PERSONAS, field, name)


def parse_task_type(field: str, name: str) -> TaskType:
    """Raises InvalidInput with the allowed names."""
    return _parse(TaskType, _TASK_TYPES, field, name)


def parse_strategy(field: str, name: str) -> CollapseStrategy:
    """Raises InvalidInput with the allowed names."""
    return _parse(CollapseStrategy, _STRATEGIES, field, name)


def parse_kind(name: str) -> TaskKind:
    return _parse(TaskKind, {}, "kind", name)


def parse_origin(name: str) -> TaskOrigin:
    return _parse(TaskOrigin, {}, "origin", name)


def default_task_type(persona: Persona | None) -> TaskType:
    """The task type of a persona, if the client names none."""
    return _DEFAULT_TASK_TYPES.get(persona or Persona.DEVELOPER, TaskType.CODE_GENERATION)


def _parse(kind: type[E], aliases: dict[str, E], field: str, name: str) -> E:
    word = name.strip().lower().lstrip("/").replace("-", "_").replace(" ", "_")
    if word in aliases:
        return aliases[word]
    try:
        return kind(word)
    except ValueError:
        allowed = [str(each) for each in kind]
        reason = f"must be one of: {', '.join(allowed)}"
        raise InvalidInput(
            f"{field}: {reason}", details={"field": field, "reason": reason, "allowed": allowed}
        ) from None
