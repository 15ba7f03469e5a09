"""Tasks: request, status, result, and the events of the journal."""

from enum import StrEnum
from typing import Any, TypeVar

from msgspec import Struct, field

from appliance.domain.messages import TokenUsage

StructT = TypeVar("StructT", bound=Struct)


class TaskKind(StrEnum):
    """What a task does; `task_kinds` has the Structs of each kind."""

    EXECUTE = "execute"


class TaskOrigin(StrEnum):
    """The API dialect that a task was submitted in."""

    MONKEY = "monkey"


class TaskStatus(StrEnum):
    """queued → running → completed | failed | cancelled; each dialect maps the names."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self not in (TaskStatus.QUEUED, TaskStatus.RUNNING)


class TaskType(StrEnum):
    CODE_GENERATION = "code_generation"
    CODE_ANALYSIS = "code_analysis"
    CODE_REVIEW = "code_review"
    DOCUMENTATION = "documentation"
    TESTING = "testing"
    DEBUGGING = "debugging"
    REFACTORING = "refactoring"
    CUSTOM = "custom"


class Persona(StrEnum):
    DEVELOPER = "developer"
    ARCHITECT = "architect"
    REVIEWER = "reviewer"
    SECURITY_ANALYST = "security_analyst"
    PERFORMANCE_EXPERT = "performance_expert"
    TESTER = "tester"
    TECHNICAL_WRITER = "technical_writer"
    CUSTOM = "custom"


class CollapseStrategy(StrEnum):
    WEIGHTED_AVERAGE = "weighted_average"
    BEST_SCORE = "best_score"
    FIRST_SUCCESS = "first_success"
    CONSENSUS = "consensus"
    COMBINED = "combined"


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"


class SourceFile(Struct, frozen=True):
    """A text file of the caller or of the answer; `path` is relative, without `..`."""

    path: str
    content: str


class TaskRequest(Struct, frozen=True):
    """The request of an `execute` task, independent of the API dialect.

    None means: the server decides. `tests` are test files that the answer has to pass;
    `instructions` is the text of a custom persona. `context` is additional data from the client,
    shown to the model. `client_task_id` is the client's idempotency key. `timeout_s` limits the
    time from start to end. `labels` say what the task belongs to (a repository, a project); the
    administrator may exclude providers by label.
    """

    prompt: str
    task_type: TaskType = TaskType.CODE_GENERATION
    persona: Persona | None = None
    instructions: str = ""
    files: tuple[SourceFile, ...] = ()
    tests: tuple[SourceFile, ...] = ()
    context: dict[str, Any] = field(default_factory=dict[str, Any])
    provider: str | None = None
    model: str | None = None
    branches: int | None = None
    strategy: CollapseStrategy = CollapseStrategy.WEIGHTED_AVERAGE
    temperature: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    timeout_s: float | None = None
    client_task_id: str | None = None
    priority: Priority = Priority.NORMAL
    labels: tuple[str, ...] = ()


class VerificationLevel(StrEnum):
    """What an answer was verified against, from weakest to strongest."""

    NONE = "none"
    SYNTAX = "syntax"
    GENERATED_TESTS = "generated_tests"
    EXAMPLES = "examples"
    CALLER_TESTS = "caller_tests"


class Verification(Struct, frozen=True):
    """Result of verifying a candidate.

    `score` is passed / (passed + failed), or None if nothing could be checked. `output` is the
    end of the run's output. `isolation` is the isolation level of the run.
    """

    level: VerificationLevel = VerificationLevel.NONE
    passed: int = 0
    failed: int = 0
    score: float | None = None
    summary: str = ""
    output: str = ""
    isolation: str | None = None
    wall_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.passed > 0 and self.failed == 0


class BranchStatus(StrEnum):
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"


class BranchReport(Struct, frozen=True):
    """One candidate: sampling parameters and verification. Repair rounds count from 1."""

    index: int
    round: int
    seed: int
    temperature: float
    status: BranchStatus
    verification: Verification
    usage: TokenUsage
    problem: str = ""


class ModelUsage(Struct, frozen=True):
    """Tokens that a model used for a task. `cost` is in US dollars, None without a price."""

    provider: str
    model: str
    usage: TokenUsage
    cost: float | None = None


class TaskResult(Struct, frozen=True):
    """The result of an `execute` task. `text` is the model's whole answer; `code` its main code,
    if any.

    `files` are the files that the answer creates or changes; `chosen` is the index into `branches`
    of the candidate that became the answer, `verification` is that candidate's. `provider` and
    `model` wrote that candidate; `usage` is that of all models, by model in `usage_by_model`
    (empty for older results). `generation_s` is the wall time of generation, for tokens
    per second. `persona` is the one that answered, whether requested or chosen by default.
    """

    text: str
    code: str | None
    explanation: str
    language: str | None
    files: tuple[SourceFile, ...]
    tests: str | None
    verification: Verification
    branches: tuple[BranchReport, ...]
    chosen: int | None
    provider: str
    model: str
    usage: TokenUsage
    generation_s: float
    warnings: tuple[str, ...] = ()
    persona: Persona | None = None
    usage_by_model: tuple[ModelUsage, ...] = ()


class TaskFailure(Struct, frozen=True):
    """Why a task failed; `code` is a stable code of appliance.errors."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict[str, Any])


class AttemptId(Struct, frozen=True):
    """One attempt at a task. `attempt` increases with each start: whoever writes for an older one
    changes nothing (a fencing token)."""

    task_id: int
    attempt: int


class Task(Struct, frozen=True):
    """A task as stored. `public_id` is "task_…" or the client's; times are epoch seconds.

    `attempt` counts how often it was started; `deadline_at` is the running attempt's deadline.
    `kind` and `origin` are strings, since a newer program may have stored others than TaskKind
    and TaskOrigin have. `request` and `result` are the Structs of the kind; None if it is unknown.
    `usage_by_model` is not stored: it is what an ended task without a result used, as far as its
    journal records it.
    """

    id: int
    public_id: str
    user_id: int
    kind: str
    origin: str
    request: TaskRequest | None
    status: TaskStatus
    attempt: int
    created_at: float
    updated_at: float
    started_at: float | None = None
    finished_at: float | None = None
    deadline_at: float | None = None
    result: TaskResult | None = None
    failure: TaskFailure | None = None
    usage_by_model: tuple[ModelUsage, ...] = ()

    @property
    def attempt_id(self) -> AttemptId:
        return AttemptId(self.id, self.attempt)

    def request_as(self, kind: type[StructT]) -> StructT:
        """The request of a task whose kind has this Struct. Raises TypeError for another kind."""
        if not isinstance(self.request, kind):
            raise TypeError(f"a task of the kind {self.kind} has no {kind.__name__}")
        return self.request


class EventKind(StrEnum):
    """Events in the journals of tasks of every kind; each kind has others of its own.

    ACCEPTED {}                     the task is on disk
    STARTED {attempt}               a worker claimed it; attempt > 1 after a crash
    PROGRESS {message, step, percentage}
    COMPLETED {}, FAILED {code, message, details}, CANCELLED {}   the end; nothing follows
    """

    ACCEPTED = "accepted"
    STARTED = "started"
    PROGRESS = "progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ExecuteEvent(StrEnum):
    """Events of `execute` tasks.

    PLANNED {…ExecutionPlan}        persona, model, branches, seed, level: fixed for all attempts
    TEXT {content}                  the answer as it is generated (text tasks)
    CANDIDATE {…Generation}         one candidate was generated, with its whole text
    VERDICT {…}                     one candidate was verified
    CODE {content}                  the code of the answer
    """

    PLANNED = "planned"
    TEXT = "text"
    CANDIDATE = "candidate"
    VERDICT = "verdict"
    CODE = "code"


FINAL_EVENTS = frozenset({EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELLED})


class TaskEvent(Struct, frozen=True):
    """One line of a task's journal; `seq` counts from 1 without a gap.

    `kind` is an EventKind, or an event of the task's kind.
    """

    task_id: int
    seq: int
    at: float
    kind: str
    data: dict[str, Any]

    @property
    def final(self) -> bool:
        return self.kind in FINAL_EVENTS
