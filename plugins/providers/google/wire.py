"""Gemini's answers as they come; whatever else they hold is left unread."""

from typing import Any

from msgspec import Struct


class Model(Struct, rename="camel"):
    name: str
    display_name: str = ""
    input_token_limit: int | None = None
    output_token_limit: int | None = None
    supported_generation_methods: list[str] = []


class ModelList(Struct, rename="camel"):
    models: list[Model] | None = None
    next_page_token: str = ""


class Count(Struct, rename="camel"):
    total_tokens: int


class FunctionCall(Struct):
    name: str
    id: str = ""
    args: dict[str, Any] | None = None


class Part(Struct, rename="camel"):
    """`thought`: the model's reasoning, which is no part of the answer."""

    text: str | None = None
    thought: bool = False
    thought_signature: str = ""
    function_call: FunctionCall | None = None


class Content(Struct):
    parts: list[Part] | None = None


class Token(Struct, rename="camel"):
    token: str = ""
    log_probability: float = 0.0


class TopTokens(Struct):
    candidates: list[Token] | None = None


class Logprobs(Struct, rename="camel"):
    chosen_candidates: list[Token] | None = None
    top_candidates: list[TopTokens] | None = None


class Candidate(Struct, rename="camel"):
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str = ""
    logprobs_result: Logprobs | None = None
    index: int = 0


class Feedback(Struct, rename="camel"):
    block_reason: str | None = None


class Usage(Struct, rename="camel"):
    """`prompt_token_count` includes those from the cache."""

    prompt_token_count: int = 0
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0


class Piece(Struct, rename="camel"):
    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Usage | None = None
    error: Any = None


class Vector(Struct):
    values: list[float]


class VectorUsage(Struct, rename="camel"):
    prompt_token_count: int = 0


class Vectors(Struct, rename="camel"):
    embeddings: list[Vector]
    usage_metadata: VectorUsage | None = None
