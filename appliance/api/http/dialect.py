"""What sets one dialect apart from another where no handler of it runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from litestar import Request, Response

from appliance.api.http.rate_limit import Window

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Problem:
    """A failed request, in no dialect. `headers` are those that belong to this failure."""

    status: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    headers: dict[str, str] = field(default_factory=dict[str, str])


def no_headers(window: Window, elapsed_s: float) -> Headers:  # noqa: ARG001
    """For a dialect that adds none of its own."""
    return []


@dataclass(frozen=True)
class Dialect:
    """The paths below `prefix`: how an error looks there, unmatched paths and wrong
    methods included, and which headers every answer carries."""

    prefix: str
    render: Callable[[Request[Any, Any, Any], Problem], Response[Any]]
    headers: Callable[[Window, float], Headers] = no_headers


class Dialects:
    """Finds the dialect of a path. The one with the empty prefix takes what is left."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._by_length = sorted(dialects, key=lambda each: len(each.prefix), reverse=True)

    def of(self, path: str) -> Dialect:
        for dialect in self._by_length:
            if path == dialect.prefix or path.startswith(dialect.prefix + "/"):
                return dialect
        return self._by_length[-1]
