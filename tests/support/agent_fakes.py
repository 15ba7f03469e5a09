"""Fakes for tests of the agent: a scripted provider, an unconfined runner, a journal in memory."""

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from appliance.agents import CodingAgent
from appliance.config.settings import AgentSettings
from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
    RunUsage,
    SandboxFile,
)
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Finished,
    FinishReason,
    MessageRole,
    TextDelta,
    TokenUsage,
)
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.domain.tasks import (
    Task,
    TaskEvent,
    TaskKind,
    TaskOrigin,
    TaskRequest,
    TaskResult,
    TaskStatus,
)
from appliance.errors import ApplianceError, InvalidInput, SandboxUnavailable
from appliance.inference import Gateway
from appliance.scheduler.context import TaskContext

Answer = str | ApplianceError | asyncio.Event


class ScriptedProvider:
    """Answers what `script` returns for a request: a text, an error, or an event to wait for.

    `requests` are all requests, `ended` counts the streams that were closed or exhausted.
    """

    def __init__(
        self,
        script: Callable[[CompletionRequest], Answer],
        *,
        name: str = "scripted",
        models: Sequence[str] = ("model",),
        context_tokens: int | None = 4096,
        max_parallel: int = 8,
        speed: float | None = 100.0,
        problem: str = "",
    ) -> None:
        self._script = script
        self._name = name
        self._models = models
        self._context_tokens = context_tokens
        self._max_parallel = max_parallel
        self._speed = speed
        self._problem = problem
        self.requests: list[CompletionRequest] = []
        self.ended = 0

    @property
    def name(self) -> str:
        return self._name

    def status(self) -> ProviderStatus:
        return ProviderStatus(self._name, not self._problem, local=True, problem=self._problem)

    async def models(self) -> Sequence[ModelInfo]:
        return [
            ModelInfo(
                name=name,
                provider=self._name,
                state=ModelState.READY,
                context_tokens=self._context_tokens,
                max_parallel=self._max_parallel,
                decode_tokens_per_second=self._speed,
            )
            for name in self._models
        ]

    async def load(self, model: str) -> None:
        return None

    async def count_tokens(self, request: CompletionRequest) -> int:
        return sum(len(message.content.split()) + 4 for message in request.messages)

    async def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        self.requests.append(request)
        try:
            answer = self._script(request)
            if isinstance(answer, ApplianceError):
                raise answer
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                answer = "too late"
            for start in range(0, len(answer), 7):
                yield TextDelta(answer[start : start + 7])
                await asyncio.sleep(0)
            used = TokenUsage(await self.count_tokens(request), len(answer.split()), 0)
            yield Finished(FinishReason.STOP, used)
        finally:
            self.ended += 1

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        raise InvalidInput.at("model", "makes no embeddings")

    async def close(self) -> None:
        return None


def answers_in_turn(*answers: Answer) -> Callable[[CompletionRequest], Answer]:
    """A script that gives the answers in order, and the last one from then on."""
    remaining = list(answers)

    def next_answer(_: CompletionRequest) -> Answer:
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return next_answer


def user_text(request: CompletionRequest) -> str:
    """The text of all user messages of a request."""
    return "\n".join(m.content for m in request.messages if m.role is MessageRole.USER)


class UnconfinedRunner:
    """Runs requests as plain processes, for tests that run no code but their own.

    `languages` is what its status offers; `problem` makes it unavailable.
    """

    def __init__(self, *, problem: str = "", wall_s: float = 5.0) -> None:
        self._wall_s = wall_s
        isolation = Isolation("none", IsolationLevel.NAMESPACES, ())
        self.status = BackendStatus(
            "open",
            available=not problem,
            isolation=None if problem else isolation,
            languages={} if problem else {"python": "3", "sh": "sh"},
            problem=problem,
        )
        self.requests: list[RunRequest] = []

    def limits(self) -> Limits:
        return Limits(wall_s=self._wall_s)

    async def run(self, request: RunRequest) -> RunResult:
        if not self.status.available:
            raise SandboxUnavailable(self.status.problem)
        self.requests.append(request)
        return await asyncio.to_thread(self._run_unconfined, request)

    def _run_unconfined(self, request: RunRequest) -> RunResult:
        with tempfile.TemporaryDirectory() as folder:
            for file in request.files:
                path = Path(folder, file.path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.content)
            argv = [sys.executable if w == "python" else w for w in request.argv]
            started = time.monotonic()
            try:
                done = subprocess.run(
                    argv,
                    cwd=folder,
                    input=request.stdin,
                    capture_output=True,
                    timeout=request.limits.wall_s,
                    env={**request.env, "PATH": "/usr/bin:/bin"},
                    check=False,
                )
                reason = EndReason.EXITED if done.returncode >= 0 else EndReason.SIGNALLED
                code, out, err = done.returncode, done.stdout, done.stderr
            except subprocess.TimeoutExpired as late:
                reason, code = EndReason.WALL_TIME, None
                out, err = late.stdout or b"", late.stderr or b""
            artifacts = [Path(folder, name) for name in request.artifacts]
            return RunResult(
                reason=reason,
                exit_code=code if reason is EndReason.EXITED else None,
                signal=None,
                stdout=out,
                stderr=err,
                output_truncated=False,
                usage=RunUsage(time.monotonic() - started, 0.0, 0),
                isolation=Isolation("none", IsolationLevel.NAMESPACES, ()),
                artifacts=tuple(
                    SandboxFile(str(path.relative_to(folder)), path.read_bytes())
                    for path in artifacts
                    if path.exists()
                ),
            )


class MemoryContext(TaskContext):
    """A task context whose journal is a list; `dies_at` raises at the n-th event written."""

    def __init__(
        self,
        request: TaskRequest,
        history: Sequence[TaskEvent] = (),
        *,
        seconds: float = 300.0,
        dies_at: int | None = None,
    ) -> None:
        task = Task(
            id=7,
            public_id="task_7",
            user_id=1,
            kind=TaskKind.EXECUTE,
            origin=TaskOrigin.MONKEY,
            request=request,
            status=TaskStatus.RUNNING,
            attempt=1,
            created_at=0.0,
            updated_at=0.0,
            started_at=0.0,
            deadline_at=seconds,
        )
        super().__init__(task, tuple(history), self._append)
        self.events = list(history)
        self._dies_at = dies_at
        self._written = 0

    def event_data(self, kind: str) -> list[dict[str, Any]]:
        return [event.data for event in self.events if event.kind == kind]

    async def _append(self, task: Task, kind: str, data: Mapping[str, Any]) -> None:
        self._written += 1
        if self._dies_at is not None and self._written >= self._dies_at:
            raise KilledError
        self.events.append(TaskEvent(task.id, len(self.events) + 1, 0.0, kind, dict(data)))


class KilledError(Exception):
    """Simulates the death of the process."""


def make_gateway(*providers: ScriptedProvider, default: str | None = None) -> Gateway:
    async def name() -> str | None:
        return default

    return Gateway({provider.name: provider for provider in providers}, name)


async def run_agent(
    provider: ScriptedProvider,
    context: MemoryContext,
    *,
    runner: UnconfinedRunner | None = None,
    settings: AgentSettings | None = None,
) -> TaskResult:
    agent = CodingAgent(
        make_gateway(provider), runner or UnconfinedRunner(), settings or AgentSettings()
    )
    return await agent.run(context)
