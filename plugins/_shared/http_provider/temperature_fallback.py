"""Models that take no temperature are asked without one.

The newest models of some providers draw tokens in their own way and refuse to be told
how. A temperature (or top_p, top_k) is then left out, and the model is remembered. Not
so temperature 0, which asks for an answer that can be told beforehand: that is refused.
"""

import re
from collections.abc import Iterator

from msgspec.structs import replace

from appliance.domain.messages import CompletionRequest
from appliance.errors import ContextLengthExceeded, InvalidInput
from plugins._shared.http_provider.unsupported import USUAL, asked

_FIELDS = ("temperature", "top_p", "top_k")
_REMEMBERED = 1000
_NAMED = re.compile(r"\b(?:temperature|top_p|top_k|topP|topK)\b")
_UNSUPPORTED = re.compile(
    r"not support|unsupported|deprecated|not (?:be )?(?:permitted|allowed|available)|"
    r"only the default|cannot be (?:set|changed)",
    re.IGNORECASE,
)


class Temper:
    """Which models of one provider take no such values."""

    def __init__(self) -> None:
        self._plain: set[str] = set()

    def versions(self, request: CompletionRequest) -> Iterator[CompletionRequest]:
        """The request as it is to be tried: as it is, then without those values."""
        if not asked(request.sampling, _FIELDS) or request.sampling.temperature == 0:
            yield request
            return
        if request.model not in self._plain:
            yield request
        values = {field: getattr(USUAL, field) for field in _FIELDS}
        yield replace(request, sampling=replace(request.sampling, **values))

    def learn(self, request: CompletionRequest, error: InvalidInput) -> bool:
        """Whether the error says that this model takes no such values; then it is remembered."""
        if isinstance(error, ContextLengthExceeded) or request.sampling.temperature == 0:
            return False
        if not (_NAMED.search(error.message) and _UNSUPPORTED.search(error.message)):
            return False
        if not asked(request.sampling, _FIELDS):
            return False
        if len(self._plain) < _REMEMBERED:
            self._plain.add(request.model)
        return True
