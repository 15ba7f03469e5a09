"""Request and response bodies. Unknown fields of requests are ignored."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
# The fields of a block depend on its type; blocks.py converts those that are supported.
Block = dict[str, Any]


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"


class MessageBody(Struct):
    """One turn; a string means one text block."""

    role: Role
    content: str | list[Block]


class ToolBody(Struct):
    """A tool of the client."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str = ""
    strict: bool | None = None


class ToolChoiceKind(StrEnum):
    AUTO = "auto"
    ANY = "any"
    TOOL = "tool"
    NONE = "none"


class ToolChoiceBody(Struct):
    """`name` belongs to the kind "tool"."""

    type: ToolChoiceKind
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class FormatBody(Struct):
    """`type` can be "json_schema" only."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfigBody(Struct):
    format: FormatBody | None = None


class MetadataBody(Struct):
    user_id: str | None = None


class CountBody(Struct, kw_only=True):
    """The fields of the prompt; the whole body of count_tokens."""

    model: Text
    messages: Annotated[list[MessageBody], Meta(min_length=1)]
    system: str | list[Block] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: ToolChoiceBody | None = None
    output_config: OutputConfigBody | None = None
    container: Any = None
    mcp_servers: list[Any] | None = None
    thread: Any = None


class MessagesBody(CountBody, kw_only=True):
    """A request for a message."""

    max_tokens: Tokens
    temperature: Probability | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    stop_sequences: list[Text] | None = None
    stream: bool = False
    metadata: MetadataBody | None = None


class CountAnswer(Struct):
    input_tokens: int


class UsageAnswer(Struct):
    """The prompt is `input_tokens`, which were computed, and `cache_read_input_tokens`."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0


class TextAnswer(Struct, tag="text"):
    text: str


class ToolUseAnswer(Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class MessageAnswer(Struct):
    """The model's turn. `stop_reason` is null only at the start of a stream."""

    id: str
    model: str
    usage: UsageAnswer
    content: list[TextAnswer | ToolUseAnswer] = field(
        default_factory=list[TextAnswer | ToolUseAnswer]
    )
    stop_reason: str | None = None
    stop_sequence: str | None = None
    type: str = "message"
    role: str = "assistant"
