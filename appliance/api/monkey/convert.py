"""From this dialect's request to the domain's: pure, and precise about what is wrong."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

import msgspec

from appliance.api.http.validation import located
from appliance.api.monkey import wire_names
from appliance.api.monkey.schemas import (
    BranchConfig,
    ContextOptions,
    ExecuteBody,
    FileBody,
    PersonaConfig,
)
from appliance.domain.tasks import (
    CollapseStrategy,
    Persona,
    Priority,
    SourceFile,
    TaskRequest,
    TaskType,
)
from appliance.errors import InvalidInput

_TEST_FILE = re.compile(r"(^|/)(test_[^/]*\.py|[^/]*_test\.py)$")
_TEST_NAME = "test_request.py"
_CODE_TYPES = frozenset({TaskType.CODE_GENERATION, TaskType.DEBUGGING, TaskType.REFACTORING})
# Of `context`, what is an option or an id of the client's: no help to a model.
_NOT_FOR_THE_MODEL = frozenset(
    {"persona", "tests", "temperature", "max_tokens", "timeout", "user_id", "session_id"}
    | {"workspace_id", "environment"}
)
# How published clients name the way their agents coordinate; not how to choose a candidate.
_COORDINATION = frozenset(
    {"simple", "sequential", "parallel", "quantum", "hybrid", "adaptive", "collaborative"}
)

T = TypeVar("T")


def task_request(
    body: ExecuteBody,
    priority: Priority = Priority.INTERACTIVE,
    labels: Iterable[str] = (),
) -> TaskRequest:
    """The task that a body asks for; `labels` are those that came beside it.

    Raises InvalidInput naming the field.
    """
    context = body.context or {}
    options = _context_options(context)
    command, prompt = wire_names.split_command(_prompt(body))
    if not prompt:
        raise InvalidInput.at("prompt", "the slash command needs a request after it")
    persona = command or _persona(body, options)
    task_type = _task_type(body, persona)
    branching = _merged(
        (body.orchestration_config, body.quantum_config, body.monkey1_config, body.gary8d_config)
    )
    files, tests = _files_and_tests(body, options, task_type)
    return TaskRequest(
        prompt=prompt,
        task_type=task_type,
        persona=persona,
        instructions=_instructions(body),
        files=files,
        tests=tests,
        context={name: value for name, value in context.items() if name not in _NOT_FOR_THE_MODEL},
        provider=body.provider or None,
        model=body.model or None,
        branches=_branches(branching),
        strategy=_strategy(branching),
        temperature=_first(body.temperature, branching.temperature, options.temperature),
        seed=_first(body.seed, branching.seed),
        max_tokens=_first(body.max_tokens, branching.max_tokens, options.max_tokens),
        timeout_s=_first(body.timeout, branching.timeout_s, branching.timeout, options.timeout),
        client_task_id=body.task_id or None,
        priority=priority,
        labels=_labels(body.labels or (), labels),
    )


def _prompt(body: ExecuteBody) -> str:
    for text in (body.task, body.prompt, body.query):
        if text is not None:
            if text.strip():
                return text
            raise InvalidInput.at("prompt", "must not be empty")
    raise InvalidInput.at("prompt", "is required (`task` and `query` mean the same)")


def _context_options(context: dict[str, Any]) -> ContextOptions:
    try:
        return msgspec.convert(context, ContextOptions, strict=False)
    except msgspec.ValidationError as error:
        place = str(error).partition(" - at `$")[2].rstrip("`")
        raise InvalidInput.at(*located(f"context{place}", str(error))) from None


def _persona_configs(body: ExecuteBody) -> Iterable[tuple[str, PersonaConfig]]:
    for field in ("persona_config", "superclause_config"):
        config: PersonaConfig | None = getattr(body, field)
        if config is not None:
            yield field, config


def _persona(body: ExecuteBody, options: ContextOptions) -> Persona | None:
    if body.persona:
        return wire_names.persona_named("persona", body.persona)
    for field, config in _persona_configs(body):
        if config.persona:
            return wire_names.persona_named(f"{field}.persona", config.persona)
        if config.slash_commands:
            return wire_names.persona_named(f"{field}.slash_commands", config.slash_commands[0])
    if options.persona:
        return wire_names.persona_named("context.persona", options.persona)
    return None


def _instructions(body: ExecuteBody) -> str:
    given = (config.custom_instructions for _, config in _persona_configs(body))
    return next((text for text in given if text), "")


def _task_type(body: ExecuteBody, persona: Persona | None) -> TaskType:
    if body.task_type:
        return wire_names.task_type_named("task_type", body.task_type)
    return wire_names.natural_type(persona)


def _merged(configs: Iterable[BranchConfig | None]) -> BranchConfig:
    """One config of several: the first that says something about an option decides it."""
    merged = BranchConfig()
    for config in configs:
        for name in BranchConfig.__struct_fields__ if config else ():
            if getattr(merged, name) is None:
                setattr(merged, name, getattr(config, name))
    return merged


def _branches(config: BranchConfig) -> int | None:
    return _first(
        config.branches,
        config.quantum_branches,
        config.execution_branches,
        config.num_variations,
        config.n,
        config.max_branches,
    )


def _strategy(config: BranchConfig) -> CollapseStrategy:
    if config.collapse_strategy:
        return wire_names.strategy_named("collapse_strategy", config.collapse_strategy)
    if config.strategy and config.strategy.strip().lower() not in _COORDINATION:
        return wire_names.strategy_named("strategy", config.strategy)
    return CollapseStrategy.WEIGHTED_AVERAGE


def _files_and_tests(
    body: ExecuteBody, options: ContextOptions, task_type: TaskType
) -> tuple[tuple[SourceFile, ...], tuple[SourceFile, ...]]:
    files = _source_files("files", body.files or [])
    tests = _tests("tests", body.tests) or _tests("context.tests", options.tests)
    if task_type not in _CODE_TYPES:
        return files, tests
    found = tuple(each for each in files if _TEST_FILE.search(each.path))
    return tuple(each for each in files if each not in found), tests + found


def _tests(field: str, given: list[FileBody] | str | None) -> tuple[SourceFile, ...]:
    if isinstance(given, str):
        return (SourceFile(_TEST_NAME, given),) if given.strip() else ()
    return _source_files(field, given or [])


def _source_files(field: str, files: list[FileBody]) -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(_path(f"{field}[{index}]", file), file.content)
        for index, file in enumerate(files)
    )


def _labels(*groups: Iterable[str]) -> tuple[str, ...]:
    """Each label once, without blanks around it."""
    return tuple(dict.fromkeys(label.strip() for group in groups for label in group))


def _path(field: str, file: FileBody) -> str:
    path = file.path or file.name or file.filename
    if not path:
        raise InvalidInput.at(f"{field}.path", "is required (`name` means the same)")
    return path


def _first(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)
