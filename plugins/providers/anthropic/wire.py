"""Responses of Anthropic's API; fields not listed here are ignored."""

from typing import Any

from msgspec import Struct


class Model(Struct):
    id: str
    display_name: str = ""
    lifecycle: str = ""
    max_input_tokens: int | None = None
    max_tokens: int | None = None
    created_at: Any = None


class ModelList(Struct):
    data: list[Model] | None = None
    has_more: bool = False
    last_id: str | None = None


class TokenCount(Struct):
    input_tokens: int


class Usage(Struct):
    """`input_tokens` excludes tokens read from and written to the cache."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Message(Struct):
    usage: Usage | None = None


class Block(Struct):
    type: str = ""
    id: str = ""
    name: str = ""
    text: str | None = None
    input: Any = None


class Delta(Struct):
    """A delta of a block (`text`, `partial_json`) or of the message (`stop_…`)."""

    type: str = ""
    text: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Event(Struct):
    type: str
    index: int = 0
    message: Message | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Usage | None = None
