"""The local provider alone, in a plugin context without the rest of the appliance."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from appliance import processes
from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    Finished,
    Message,
    MessageRole,
    Sampling,
    TextDelta,
)
from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import InvalidInput
from appliance.models.gguf import header
from appliance.spi.registry import PluginContext
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.supervision.completion_connection import CompletionConnection
from plugins.providers.llama_cpp.supervision.completion_stream import CompletionStream
from tests.support.polling import until

GREEDY = Sampling(temperature=0.0)


class ListedModels:
    """The registered models; a test may change the list."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.files = files
        self.probes: dict[str, ModelProbe] = {}

    async def list(self) -> Sequence[ModelFile]:
        return [_model_file(alias, path) for alias, path in self.files.items()]

    async def check(self, alias: str) -> ModelFile:
        return _model_file(alias, self.files[alias])

    async def probe(self, alias: str) -> ModelProbe | None:
        return self.probes.get(alias)

    async def store_probe(self, alias: str, probe: ModelProbe) -> None:
        self.probes[alias] = probe


def provider_for(
    folder: Path,
    files: dict[str, Path],
    *,
    child_argv: Callable[[str], list[str]] = processes.child_argv,
    **settings: Any,
) -> tuple[LlamaCppProvider, ListedModels]:
    """A provider whose engines run as they do in the product. The caller closes it."""
    models = ListedModels(files)
    context = PluginContext(
        data_dir=folder,
        runtime_dir=folder / "run",
        settings=settings,
        models=models,
        child_argv=child_argv,
        host_env=processes.host_env,
        child_env=processes.child_env,
        sandbox_python=lambda: folder,
    )
    return LlamaCppProvider("llama_cpp", context), models


def request(
    text: str,
    *,
    model: str = "tiny",
    sampling: Sampling = GREEDY,
    max_tokens: int | None = 8,
    owner: str = "",
) -> CompletionRequest:
    """A completion request of one user message."""
    messages = (Message(MessageRole.USER, text),)
    return CompletionRequest(model, messages, sampling, max_tokens, owner)


async def complete(provider: LlamaCppProvider, request_: CompletionRequest) -> tuple[str, Finished]:
    """The completion's text and its Finished event."""
    events: list[CompletionEvent] = [event async for event in provider.stream(request_)]
    last = events[-1]
    assert isinstance(last, Finished)
    return "".join(event.text for event in events if isinstance(event, TextDelta)), last


async def until_gone(pid: int) -> None:
    """Return when no process has this id. Raises TimeoutError after ten seconds."""
    await until(lambda: not _exists(pid), 10)


def record_submissions(monkeypatch: pytest.MonkeyPatch) -> list[CompletionRequest]:
    """The requests that are submitted to engines from now on."""
    submit, submitted = CompletionConnection.submit, list[CompletionRequest]()

    def record(connection: CompletionConnection, request: CompletionRequest) -> CompletionStream:
        submitted.append(request)
        return submit(connection, request)

    monkeypatch.setattr(CompletionConnection, "submit", record)
    return submitted


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@lru_cache(maxsize=64)
def _inspect(path: Path, _changed_ns: int, _size: int) -> header.GgufInfo | None:
    """Read once, as the product does: a real model's header takes a tenth of a second."""
    try:
        return header.inspect_model(path)
    except InvalidInput:
        return None


def _model_file(alias: str, path: Path) -> ModelFile:
    """As the registry describes it, if the header can be read."""
    stat = path.stat() if path.exists() else None
    info = _inspect(path, stat.st_mtime_ns, stat.st_size) if stat else None
    return ModelFile(
        alias=alias,
        path=str(path),
        sha256="",
        size=stat.st_size if stat else 0,
        architecture="llama",
        parameters=0,
        context_tokens=512,
        quantization="F32",
        source="test",
        is_default=True,
        created_at=0.0,
        kv_bytes_per_token=info.kv_bytes_per_token if info else 0,
        embeds=info.embeds if info else False,
        fills_in=info.fills_in if info else False,
    )
