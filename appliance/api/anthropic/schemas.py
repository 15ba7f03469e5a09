"""Messages as they go over the wire in this dialect. Unknown fields of a request are ignored."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Text = Annotated[str, Meta(min_length=1)]
# A block's fields depend on its type, of which there are more every year: `blocks` reads them.
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
    """A tool of the client's own."""

    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
    input_schema: dict[str, Any]
    description: str = ""


class ToolChoiceKind(StrEnum):
    AUTO = "auto"
    ANY = "any"
    TOOL = "tool"
    NONE = "none"


class ToolChoiceBody(Struct):
    """`name` belongs to the kind "tool"."""

    type: ToolChoiceKind
    name: str | None = None
    disable_parallel_tool_use: bool = False


class FormatBody(Struct):
    """`type` is "json_schema"; there is no other."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfigBody(Struct):
    format: FormatBody | None = None


class MetadataBody(Struct):
    user_id: str | None = None


class CountBody(Struct, kw_only=True):
    """What makes up the prompt; the whole body of count_tokens."""

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
    """A message that is to be made."""

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
    """`input_tokens` are those computed; with those read from the cache they are the prompt."""

    input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int = 0
    service_tier: str = "standard"


class TextAnswer(Struct, tag="text"):
    text: str
    citations: None = None


class ToolUseAnswer(Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class MessageAnswer(Struct):
    """The model's turn. `stop_reason` is null only in the start of a stream."""

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
