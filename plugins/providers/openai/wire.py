"""OpenAI's answers as they come; whatever else they hold is left unread."""

from typing import Any

from msgspec import Struct


class Model(Struct):
    id: str
    max_model_len: int | None = None
    meta: dict[str, Any] | None = None
    created: Any = None


class ModelList(Struct):
    data: list[Model] | None = None


class CachedTokens(Struct):
    cached_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None
    prompt_tokens_details: CachedTokens | None = None


class FunctionPiece(Struct):
    name: str | None = None
    arguments: str | None = None


class CallPiece(Struct):
    index: int | None = None
    id: str | None = None
    function: FunctionPiece | None = None


class Delta(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[CallPiece] | None = None


class TokenProbability(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class ChosenToken(Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TokenProbability] | None = None


class Logprobs(Struct):
    """Of chats `content`; of raw completions the older parallel lists."""

    content: list[ChosenToken] | None = None
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
    """One piece of a streamed chat or raw completion, or an error in its place."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    object: str | None = None
    message: str | None = None
    code: int | str | None = None


class Vector(Struct):
    embedding: list[float]
    index: int = 0


class Vectors(Struct):
    data: list[Vector]
    usage: Usage | None = None


class VllmCount(Struct):
    count: int


class Template(Struct):
    prompt: str


class Tokens(Struct):
    tokens: list[Any]
