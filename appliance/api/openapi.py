"""What the OpenAPI document says that the framework does not find out by itself."""

from dataclasses import dataclass
from typing import Any

from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, SecurityRequirement
from litestar.openapi.spec import RequestBody as BodySpec

# An empty requirement: also without credentials. An empty list would mean the default.
ANYBODY: list[SecurityRequirement] = [{}]


@dataclass
class OptionalBody(Operation):
    """An operation whose body may be left out."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, BodySpec):
            self.request_body.required = False


def answers_with(kind: type[Any], description: str) -> dict[int, ResponseSpec]:
    """The `responses` of a handler whose own annotation is wider."""
    return {200: ResponseSpec(kind, description=description, generate_examples=False)}


def answers_with_events() -> dict[int, ResponseSpec]:
    """The `responses` of a handler that answers with a stream."""
    return {
        200: ResponseSpec(
            str,
            description="Server-sent events; each has an id and one line of JSON.",
            media_type="text/event-stream",
            generate_examples=False,
        )
    }
