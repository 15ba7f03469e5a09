"""Converts the body of /execute to a task: pure functions."""

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from appliance.api.http.validation import convert_field
from appliance.api.monkey import task_names
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
# Fields of `context` that are options or ids of the client, and not for the model.
_CLIENT_FIELDS = frozenset(
    {"persona", "tests", "temperature", "max_tokens", "timeout", "user_id", "session_id"}
    | {"workspace_id", "environment"}
)
# Values of `strategy` in published clients that describe coordination, not the choice of a
# candidate; ignored.
_IGNORED_STRATEGIES = frozenset(
    {"simple", "sequential", "parallel", "quantum", "hybrid", "adaptive", "collaborative"}
)

T = TypeVar("T")


def task_request(
    body: ExecuteBody,
    priority: Priority = Priority.INTERACTIVE,
    labels: Iterable[str] = (),
) -> TaskRequest:
    """The task of a body; `labels` are those of the headers. Raises InvalidInput."""
    context = body.context or {}
    options = _context_options(context)
    command, prompt = task_names.split_command(_prompt(body))
    if not prompt:
        raise InvalidInput.at("prompt", "needs a request after the slash command")
    persona = command or _persona(body, options)
    task_type = _task_type(body, persona)
    branching = _merge_configs(
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
        context={name: value for name, value in context.items() if name not in _CLIENT_FIELDS},
        provider=body.provider or None,
        model=body.model or None,
        branches=_branches(branching),
        strategy=_strategy(branching),
        temperature=_first_set(body.temperature, branching.temperature, options.temperature),
        seed=_first_set(body.seed, branching.seed),
        max_tokens=_first_set(body.max_tokens, branching.max_tokens, options.max_tokens),
        timeout_s=_first_set(body.timeout, branching.timeout_s, branching.timeout, options.timeout),
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
    raise InvalidInput.at("prompt", "is required (or `task`, or `query`)")


def _context_options(context: dict[str, Any]) -> ContextOptions:
    return convert_field(context, ContextOptions, "context", strict=False)


def _persona_configs(body: ExecuteBody) -> Iterable[tuple[str, PersonaConfig]]:
    for field in ("persona_config", "superclause_config"):
        config: PersonaConfig | None = getattr(body, field)
        if config is not None:
            yield field, config


def _persona(body: ExecuteBody, options: ContextOptions) -> Persona | None:
    if body.persona:
        return task_names.parse_persona("persona", body.persona)
    for field, config in _persona_configs(body):
        if config.persona:
            return task_names.parse_persona(f"{field}.persona", config.persona)
        if config.slash_commands:
            return task_names.parse_persona(f"{field}.slash_commands", config.slash_commands[0])
    if options.persona:
        return task_names.parse_persona("context.persona", options.persona)
    return None


def _instructions(body: ExecuteBody) -> str:
    texts = (config.custom_instructions for _, config in _persona_configs(body))
    return next((text for text in texts if text), "")


def _task_type(body: ExecuteBody, persona: Persona | None) -> TaskType:
    if body.task_type:
        return task_names.parse_task_type("task_type", body.task_type)
    return task_names.default_task_type(persona)


def _merge_configs(configs: Iterable[BranchConfig | None]) -> BranchConfig:
    """Merge configs: the first one that sets an option decides."""
    merged = BranchConfig()
    for config in configs:
        for name in BranchConfig.__struct_fields__ if config else ():
            if getattr(merged, name) is None:
                setattr(merged, name, getattr(config, name))
    return merged


def _branches(config: BranchConfig) -> int | None:
    return _first_set(
        config.branches,
        config.quantum_branches,
        config.execution_branches,
        config.num_variations,
        config.n,
        config.max_branches,
    )


def _strategy(config: BranchConfig) -> CollapseStrategy:
    if config.collapse_strategy:
        return task_names.parse_strategy("collapse_strategy", config.collapse_strategy)
    if config.strategy and config.strategy.strip().lower() not in _IGNORED_STRATEGIES:
        return task_names.parse_strategy("strategy", config.strategy)
    return CollapseStrategy.WEIGHTED_AVERAGE


def _files_and_tests(
    body: ExecuteBody, options: ContextOptions, task_type: TaskType
) -> tuple[tuple[SourceFile, ...], tuple[SourceFile, ...]]:
    files = _source_files("files", body.files or [])
    tests = _convert_tests("tests", body.tests) or _convert_tests("context.tests", options.tests)
    if task_type not in _CODE_TYPES:
        return files, tests
    test_files = tuple(each for each in files if _TEST_FILE.search(each.path))
    return tuple(each for each in files if each not in test_files), tests + test_files


def _convert_tests(field: str, tests: list[FileBody] | str | None) -> tuple[SourceFile, ...]:
    if isinstance(tests, str):
        return (SourceFile(_TEST_NAME, tests),) if tests.strip() else ()
    return _source_files(field, tests or [])


def _source_files(field: str, files: list[FileBody]) -> tuple[SourceFile, ...]:
    return tuple(
        SourceFile(_path(f"{field}[{index}]", file), file.content)
        for index, file in enumerate(files)
    )


def _labels(*groups: Iterable[str]) -> tuple[str, ...]:
    """The labels without duplicates and surrounding blanks."""
    return tuple(dict.fromkeys(label.strip() for group in groups for label in group))


def _path(field: str, file: FileBody) -> str:
    path = file.path or file.name or file.filename
    if not path:
        raise InvalidInput.at(f"{field}.path", "is required (or `name`)")
    return path


def _first_set(*values: T | None) -> T | None:
    return next((value for value in values if value is not None), None)
