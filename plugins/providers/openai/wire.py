"""Responses of OpenAI's API; fields not listed here are ignored."""

from typing import Any

from msgspec import Struct


class Model(Struct):
    id: str
    max_model_len: int | None = None
    meta: dict[str, Any] | None = None
    created: Any = None


class ModelList(Struct):
    data: list[Model] | None = None


class PromptTokensDetails(Struct):
    cached_tokens: int | None = None


class CompletionTokensDetails(Struct):
    reasoning_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class FunctionDelta(Struct):
    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class TopToken(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class SampledToken(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopToken] | None = None


class Logprobs(Struct):
    """Chat completions fill `content`, raw completions the three parallel lists."""

    content: list[SampledToken] | None = None
    tokens: list[str] | None = None
    token_logprobs: list[float | None] | None = None
    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(Struct):
    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class Chunk(Struct):
    """One event of a streamed chat or raw completion, or an error in its place."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None
    code: int | str | None = None


class Embedding(Struct):
    embedding: list[float]
    index: int = 0


class EmbeddingList(Struct):
    data: list[Embedding]
    usage: Usage | None = None


class VllmTokenCount(Struct):
    count: int


class AppliedTemplate(Struct):
    prompt: str


class LlamaServerTokens(Struct):
    tokens: list[Any]
