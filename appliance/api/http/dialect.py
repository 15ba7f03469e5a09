"""What a dialect defines for responses that no handler of it makes, such as a 404."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from litestar import Request, Response

from appliance.api.http.rate_limit import RateStatus

Headers = list[tuple[bytes, bytes]]
FieldNames = Sequence[tuple[re.Pattern[str], str]]
"""Patterns of the domain's field names, and a dialect's own names in their place."""


@dataclass(frozen=True)
class Problem:
    """A failed request, independent of the dialect. `headers` are specific to the failure."""

    status: int
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    headers: dict[str, str] = field(default_factory=dict[str, str])

    def with_names(self, names: FieldNames) -> "Problem":
        """The same problem, with the field as the client named it."""
        known = str(self.details.get("field", ""))
        for pattern, name in names:
            own, count = pattern.subn(name, known, count=1)
            if count:
                message = self.message.replace(f"{known}: ", f"{own}: ", 1)
                return replace(self, message=message, details=self.details | {"field": own})
        return self


def no_extra_headers(window: RateStatus, elapsed_s: float) -> Headers:  # noqa: ARG001
    """For a dialect without headers of its own."""
    return []


@dataclass(frozen=True)
class Dialect:
    """The paths below `prefix`: how errors are rendered (unmatched paths and wrong methods
    included) and which headers each response carries. `name` is that of the rate policy."""

    name: str
    prefix: str
    render_error: Callable[[Request[Any, Any, Any], Problem], Response[Any]]
    extra_headers: Callable[[RateStatus, float], Headers] = no_extra_headers


class Dialects:
    """Finds the dialect of a path. The one with the empty prefix takes all other paths."""

    def __init__(self, dialects: Sequence[Dialect]) -> None:
        self._by_length = sorted(dialects, key=lambda each: len(each.prefix), reverse=True)

    def for_path(self, path: str) -> Dialect:
        for dialect in self._by_length:
            if path == dialect.prefix or path.startswith(dialect.prefix + "/"):
                return dialect
        return self._by_length[-1]
