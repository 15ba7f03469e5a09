"""Responses of the Gemini API; fields not listed here are ignored."""

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


class TokenCount(Struct, rename="camel"):
    total_tokens: int


class FunctionCall(Struct):
    name: str
    id: str = ""
    args: dict[str, Any] | None = None


class Part(Struct, rename="camel"):
    """`thought`: the part is reasoning, not text of the completion."""

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


class PromptFeedback(Struct, rename="camel"):
    block_reason: str | None = None


class Usage(Struct, rename="camel"):
    """`prompt_token_count` includes cached tokens."""

    prompt_token_count: int = 0
    cached_content_token_count: int = 0
    candidates_token_count: int = 0
    thoughts_token_count: int = 0
    tool_use_prompt_token_count: int = 0


class Chunk(Struct, rename="camel"):
    candidates: list[Candidate] | None = None
    prompt_feedback: PromptFeedback | None = None
    usage_metadata: Usage | None = None
    error: Any = None


class Embedding(Struct):
    values: list[float]


class EmbeddingUsage(Struct, rename="camel"):
    prompt_token_count: int = 0


class EmbeddingList(Struct, rename="camel"):
    embeddings: list[Embedding]
    usage_metadata: EmbeddingUsage | None = None
