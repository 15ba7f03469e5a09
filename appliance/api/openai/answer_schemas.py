"""Response bodies of chat completions, completions, embeddings and models."""

from msgspec import UNSET, Struct, UnsetType


class PromptDetails(Struct):
    cached_tokens: int


class CompletionDetails(Struct):
    reasoning_tokens: int


class UsageAnswer(Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class FunctionAnswer(Struct):
    name: str
    arguments: str


class ToolCallAnswer(Struct):
    id: str
    function: FunctionAnswer
    type: str = "function"


class ToolCallDelta(Struct):
    index: int
    id: str
    function: FunctionAnswer
    type: str = "function"


class RankedToken(Struct):
    token: str
    logprob: float
    bytes: list[int]


class TokenAnswer(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[RankedToken]


class ChatLogprobs(Struct):
    content: list[TokenAnswer]
    refusal: None = None


class MessageAnswer(Struct):
    content: str | None
    role: str = "assistant"
    refusal: None = None
    tool_calls: list[ToolCallAnswer] | UnsetType = UNSET
    function_call: FunctionAnswer | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: MessageAnswer
    finish_reason: str
    logprobs: ChatLogprobs | None = None


class ChatAnswer(Struct):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: UsageAnswer
    object: str = "chat.completion"
    service_tier: str | UnsetType = UNSET


class PlainLogprobs(Struct):
    """`text_offset` counts characters from the start of the text."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class PlainChoice(Struct):
    index: int
    text: str
    finish_reason: str | None
    logprobs: PlainLogprobs | None = None


class PlainAnswer(Struct):
    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[PlainChoice]
    usage: UsageAnswer
    object: str = "text_completion"
    service_tier: str | UnsetType = UNSET


class VectorAnswer(Struct):
    """`embedding` is base64 of little-endian 32-bit floats if `encoding_format` was base64."""

    index: int
    embedding: tuple[float, ...] | str
    object: str = "embedding"


class EmbeddingUsage(Struct):
    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(Struct):
    model: str
    data: list[VectorAnswer]
    usage: EmbeddingUsage
    object: str = "list"


class ModelAnswer(Struct):
    """A model, with the fields of OpenAI's and Anthropic's APIs and native ones.

    `created` (epoch seconds) and `created_at` are when the model was published or registered;
    if its provider does not say, when this server first saw it. `context_length` is in
    tokens. `tokens_per_second` is the last measured decoding speed.
    """

    id: str
    owned_by: str
    name: str
    provider: str
    status: str
    default: bool
    context_length: int | None
    max_parallel: int
    tokens_per_second: float | None
    description: str
    problem: str | None
    embeddings: bool
    fill_in_the_middle: bool
    display_name: str
    created: int
    created_at: str
    object: str = "model"
    type: str = "model"
    lifecycle: str = "active"


class ModelListAnswer(Struct):
    """`data` is the list; `models` has the same entries by provider."""

    data: list[ModelAnswer]
    models: dict[str, list[ModelAnswer]]
    count: int
    default: str | None
    provider_filter: str | None
    first_id: str | None
    last_id: str | None
    has_more: bool = False
    object: str = "list"
