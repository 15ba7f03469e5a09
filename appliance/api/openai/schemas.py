"""Request bodies of chat completions, completions and embeddings.

Unknown fields are ignored, since clients send those of other vendors. Of OpenAI's,
`user`, `safety_identifier`, `prompt_cache_key`, `prompt_cache_options`,
`prompt_cache_retention`, `reasoning_effort`, `verbosity`, `prediction`,
`stream_options.include_obfuscation` and a message's `name` are ignored, too: the answer is
right without them. Fields that would make it wrong are declared here and rejected by the
converters.

A field that is left out, or null, has no default here: the provider's applies.
"""

from typing import Annotated, Any

from msgspec import Meta, Struct

Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Factor = Annotated[float, Meta(gt=0, le=100)]
Tokens = Annotated[int, Meta(ge=1, le=100_000_000)]
Choices = Annotated[int, Meta(ge=1, le=128)]
TokenId = Annotated[int, Meta(ge=0, lt=2**31)]
Ranks = Annotated[int, Meta(ge=0, le=20)]
TopK = Annotated[int, Meta(ge=0, lt=2**31)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class StreamOptions(Struct):
    include_usage: bool | None = None


class GenerationBody(Struct, kw_only=True):
    """Fields that chats and plain completions share.

    `top_k`, `min_p`, `repeat_penalty`, `grammar` (GBNF), `cache` (false: no cached answer),
    `context_shift` and `provider` are extensions; clients send them as extra fields.
    """

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Choices | None = None
    stop: str | list[str] | None = None
    max_tokens: Tokens | None = None
    temperature: Temperature | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[TokenId, Bias] | None = None
    seed: Seed | None = None
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None
    store: bool | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: Factor | None = None
    grammar: str | None = None
    cache: bool | None = None
    context_shift: bool | None = None
    provider: str | None = None


class ImageBody(Struct):
    url: str


class AudioBody(Struct):
    data: str
    format: str


class FileBody(Struct):
    file_data: str | None = None
    filename: str | None = None


class PartBody(Struct):
    """A part of a message; which field it has depends on its type."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: ImageBody | None = None
    input_audio: AudioBody | None = None
    file: FileBody | None = None


class CalledFunction(Struct):
    name: str
    arguments: str = ""


class ToolCallBody(Struct):
    id: str
    type: str = "function"
    function: CalledFunction | None = None


class MessageBody(Struct):
    role: str
    content: str | list[PartBody] | None = None
    tool_calls: list[ToolCallBody] | None = None
    tool_call_id: str | None = None
    name: str | None = None
    function_call: CalledFunction | None = None
    refusal: str | None = None
    audio: Any = None


class FunctionBody(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(Struct):
    type: str
    function: FunctionBody | None = None


class NameBody(Struct):
    name: str


class AllowedToolBody(Struct):
    type: str = "function"
    function: NameBody | None = None


class AllowedToolsBody(Struct):
    mode: str
    tools: list[AllowedToolBody]


class ToolChoiceBody(Struct):
    type: str
    function: NameBody | None = None
    allowed_tools: AllowedToolsBody | None = None


class JsonSchemaBody(Struct):
    name: str
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class ResponseFormatBody(Struct):
    type: str
    json_schema: JsonSchemaBody | None = None


class ChatBody(GenerationBody, kw_only=True):
    messages: list[MessageBody]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Ranks | None = None
    response_format: ResponseFormatBody | None = None
    tools: list[ToolBody] | None = None
    tool_choice: str | ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: list[FunctionBody] | None = None
    function_call: str | NameBody | None = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    moderation: Any = None


class CompletionBody(GenerationBody, kw_only=True):
    """`prompt` can be a list. Token ids are declared only to be rejected with a clear error."""

    prompt: str | list[str | int | list[int]]
    suffix: str | None = None
    echo: bool | None = None
    best_of: Choices | None = None
    logprobs: Ranks | None = None


class EmbeddingBody(Struct):
    input: str | list[str | int | list[int]]
    model: str
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    encoding_format: str | None = None
