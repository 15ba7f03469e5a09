"""A provider that needs no model, as a plugin for a real server: copied to its plugin directory.

Its answers cost no time, so that a request that takes long is the server's own doing. Models
named `paced-…` take about half a second per answer, in pieces.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from appliance.domain.messages import (
    CompletionEvent,
    CompletionRequest,
    EmbeddingRequest,
    Embeddings,
    Finished,
    FinishReason,
    TextDelta,
    TokenUsage,
)
from appliance.domain.models import ModelInfo, ModelState, ProviderStatus
from appliance.spi.registry import PluginContext, Registry

NAME = "plugin_provider"
QUICK, VECTORS = "quick", "vectors"
PACED = tuple(f"paced-{number}" for number in range(400))
PIECE_S = 0.02
_ANSWER = "```python\ndef double(x):\n    return 2 * x\n```\n"
_CONTEXT_TOKENS = 32_768


class PluginProvider:
    """Answers every chat with the same function."""

    name = NAME

    def status(self) -> ProviderStatus:
        return ProviderStatus(NAME, available=True, local=True)

    async def models(self) -> Sequence[ModelInfo]:
        return [
            ModelInfo(
                name,
                NAME,
                ModelState.READY,
                context_tokens=_CONTEXT_TOKENS,
                max_parallel=64,
                decode_tokens_per_second=1000.0,
                is_default=name == QUICK,
                embeds=name == VECTORS,
                fills_in=name == QUICK,
            )
            for name in (QUICK, VECTORS, *PACED)
        ]

    async def load(self, model: str) -> None:
        """Every model is ready."""

    async def count_tokens(self, request: CompletionRequest) -> int:
        return sum(len(message.content) for message in request.messages) // 4 + 1

    async def stream(self, request: CompletionRequest) -> AsyncIterator[CompletionEvent]:
        for at in range(0, len(_ANSWER), 2):
            if request.model in PACED:
                await asyncio.sleep(PIECE_S)
            yield TextDelta(_ANSWER[at : at + 2])
        usage = TokenUsage(await self.count_tokens(request), len(_ANSWER) // 2)
        yield Finished(FinishReason.STOP, usage)

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        return Embeddings(((1.0, 0.0),) * len(request.texts), TokenUsage(len(request.texts)))

    async def close(self) -> None:
        """Nothing is held."""


def register(registry: Registry) -> None:
    registry.add_provider(NAME, _build)


def _build(context: PluginContext) -> PluginProvider:
    return PluginProvider()


def install(folder: Path) -> dict[str, str]:
    """Put the plugin into `folder`; the result configures a server to use it and nothing else."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copyfile(__file__, folder / f"{NAME}.py")
    (folder / f"{NAME}.py").chmod(0o644)
    return {
        "MONKEY_CODER__PLUGINS__PATH": str(folder),
        "MONKEY_CODER__MODELS__DEFAULT": f"{NAME}/{QUICK}",
    }
