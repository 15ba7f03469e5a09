"""Additions to the OpenAPI document that Litestar can't derive from the handlers."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, SecurityRequirement
from litestar.openapi.spec import RequestBody as BodySpec

# One empty requirement. An empty list would mean the default of the document.
NO_CREDENTIALS: list[SecurityRequirement] = [{}]


@dataclass
class OptionalBody(Operation):
    """An operation with an optional body."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, BodySpec):
            self.request_body.required = False


def response_schema(kind: type[Any], description: str) -> dict[int, ResponseSpec]:
    """The `responses` of a handler whose return annotation says less."""
    return {200: ResponseSpec(kind, description=description, generate_examples=False)}


def event_stream_schema() -> dict[int, ResponseSpec]:
    """The `responses` of a handler that returns a stream of events."""
    return {
        200: ResponseSpec(
            str,
            description="Server-sent events; each has an id and one line of JSON.",
            media_type="text/event-stream",
            generate_examples=False,
        )
    }
