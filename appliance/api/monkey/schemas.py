"""Request and response bodies of tasks. Unknown fields of requests are ignored."""

from typing import Annotated, Any

from msgspec import Meta, Struct, field

Text = Annotated[str, Meta(max_length=1000)]
Branches = Annotated[int, Meta(ge=1, le=64)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Label = Annotated[str, Meta(min_length=1, max_length=200)]


class FileBody(Struct):
    """A file of a request. One of `path`, `name` and `filename` is required."""

    content: str
    path: str | None = None
    name: str | None = None
    filename: str | None = None


class PersonaConfig(Struct):
    persona: str | None = None
    slash_commands: list[str] = field(default_factory=list[str])
    custom_instructions: str | None = None


class BranchConfig(Struct):
    """How candidates are sampled and chosen; the `*_config` objects of a request are merged."""

    max_branches: Branches | None = None
    branches: Branches | None = None
    quantum_branches: Branches | None = None
    execution_branches: Branches | None = None
    num_variations: Branches | None = None
    n: Branches | None = None
    collapse_strategy: str | None = None
    strategy: str | None = None
    temperature: Temperature | None = None
    seed: Seed | None = None
    timeout: Seconds | None = None
    timeout_s: Seconds | None = None
    max_tokens: Tokens | None = None


class ContextOptions(Struct):
    """The options in `context`; other fields of it are shown to the model."""

    persona: str | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    timeout: Seconds | None = None
    tests: list[FileBody] | str | None = None


class ExecuteBody(Struct):
    """A coding task, in any of the three shapes that clients send.

    `labels` say what the task belongs to, in addition to the header X-Labels. The
    administrator can exclude remote providers for a label.
    """

    prompt: str | None = None
    task: str | None = None
    query: str | None = None
    task_id: str | None = None
    task_type: str | None = None
    persona: str | None = None
    persona_config: PersonaConfig | None = None
    superclause_config: PersonaConfig | None = None
    context: dict[str, Any] | None = None
    files: list[FileBody] | None = None
    tests: list[FileBody] | str | None = None
    provider: str | None = None
    model: str | None = None
    stream: bool = False
    orchestration_config: BranchConfig | None = None
    quantum_config: BranchConfig | None = None
    monkey1_config: BranchConfig | None = None
    gary8d_config: BranchConfig | None = None
    temperature: Temperature | None = None
    max_tokens: Tokens | None = None
    timeout: Seconds | None = None
    seed: Seed | None = None
    labels: Annotated[list[Label], Meta(max_length=64)] | None = None


class ArtifactAnswer(Struct):
    """`filename` is relative, without `..`; `type` is "code" or "file"."""

    name: str
    filename: str
    type: str
    content: str


class BranchAnswer(Struct):
    """A candidate: its sampling options and its verification."""

    index: int
    round: int
    seed: int
    temperature: float
    status: str
    level: str
    passed: int
    failed: int
    score: float | None
    summary: str
    tokens: int


class VerificationAnswer(Struct):
    """The verification of the answer, and of all candidates."""

    level: str
    passed: int
    failed: int
    score: float | None
    summary: str
    output: str
    isolation: str | None
    chosen: int | None
    branches: list[BranchAnswer]


class ResultAnswer(Struct):
    """`result` is the code, or the text if there is no code."""

    code: str | None
    explanation: str
    files_modified: list[str]
    tests: str | None
    result: str
    language: str | None
    artifacts: list[ArtifactAnswer]
    confidence_score: float | None
    warnings: list[str]


class UsageAnswer(Struct):
    """`provider_breakdown` are the tokens by provider. `cost_estimate` is in US dollars by the
    server's [prices]; a model without a price, such as a local one, counts as 0."""

    tokens_used: int
    tokens_input: int
    tokens_output: int
    tokens_cached: int
    provider_breakdown: dict[str, int]
    cost_estimate: float
    execution_time: float | None


class MetadataAnswer(Struct):
    """`quantum_branches` is the number of candidates that were generated."""

    task_type: str
    persona: str
    execution_time: float | None
    provider_used: str | None
    model: str | None
    tokens_used: int
    tokens_per_second: float | None
    quantum_branches: int
    attempts: int


class ErrorAnswer(Struct):
    code: str
    message: str
    details: dict[str, Any]


class ExecuteAnswer(Struct):
    """A task: its status, and once it has ended, its result or error."""

    task_id: str
    execution_id: str
    status: str
    result: ResultAnswer | None
    error: ErrorAnswer | None
    metadata: MetadataAnswer
    usage: UsageAnswer | None
    verification: VerificationAnswer | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    execution_time: float | None


class TaskAnswer(Struct):
    """A task of another kind than `execute`."""

    task_id: str
    kind: str
    status: str
    error: ErrorAnswer | None
    created_at: str
    started_at: str | None
    completed_at: str | None
    execution_time: float | None


class TaskSummary(Struct):
    """`prompt` is truncated. Tasks of other kinds than `execute` have no `task_type`."""

    task_id: str
    status: str
    task_type: str | None
    persona: str | None
    prompt: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    error: ErrorAnswer | None


class TaskListAnswer(Struct):
    """`next_cursor` is the cursor of the next page; null at the end."""

    tasks: list[TaskSummary]
    next_cursor: str | None
