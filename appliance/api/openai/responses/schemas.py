"""Request bodies of /v1/responses. Unknown fields are ignored."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

Tokens = Annotated[int, Meta(ge=1, le=10_000_000)]
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,128}$")]
# The fields of an item depend on its type; items.py converts those that are supported.
Item = dict[str, Any]


class FormatBody(Struct):
    """`schema` and `name` belong to the type "json_schema"."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextBody(Struct):
    format: FormatBody | None = None
    verbosity: str | None = None


class FunctionBody(Struct):
    """A function tool of the client."""

    name: ToolName
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class InputFormatBody(Struct):
    """`syntax` and `definition` belong to the type "grammar"."""

    type: Literal["text", "grammar"]
    syntax: Literal["lark", "regex"] | None = None
    definition: str | None = None


class CustomBody(Struct):
    """A custom tool: its input is free text."""

    name: ToolName
    description: str | None = None
    format: InputFormatBody | None = None


class NamespaceBody(Struct):
    """Functions and custom tools under a common name."""

    name: ToolName
    description: str
    tools: list[dict[str, Any]]


class EnvironmentBody(Struct):
    type: str


class ShellBody(Struct):
    environment: EnvironmentBody | None = None


class ToolSearchBody(Struct):
    """With `execution` "client", the client searches tools that it did not send yet."""

    execution: str | None = None
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ReasoningBody(Struct):
    """Hints for reasoning models."""

    effort: str | None = None
    summary: str | None = None


class PromptBody(Struct, kw_only=True):
    """The fields of the prompt; the whole body of input_tokens."""

    input: str | list[Item]
    model: str | None = None
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    truncation: Literal["auto", "disabled"] | None = None
    reasoning: ReasoningBody | None = None


class ResponseBody(PromptBody, kw_only=True):
    """A request for a response."""

    max_output_tokens: Tokens | None = None
    max_tool_calls: int | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    include: list[str] | None = None
    stream: bool | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    background: bool | None = None
    prompt: Any = None
    context_management: list[Any] | None = None
    moderation: Any = None
    service_tier: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
