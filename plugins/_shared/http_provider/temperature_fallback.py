"""Retries without temperature, top_p and top_k for models that reject them.

Some providers' newest models fix their sampling parameters and reject requests that set
them. Such a request is sent again without them, and the model is remembered. Temperature
0 is never dropped: it asks for a deterministic completion, so the error is passed on.
"""

import re
from collections.abc import Iterator

from msgspec.structs import replace

from appliance.domain.messages import CompletionRequest
from appliance.errors import ContextLengthExceeded, InvalidInput
from plugins._shared.http_provider.unsupported import given_sampling

_FIELDS = ("temperature", "top_p", "top_k")
_MAX_REMEMBERED_MODELS = 1000
_FIELD_NAMES = re.compile(r"\b(?:temperature|top_p|top_k|topP|topK)\b")
_UNSUPPORTED = re.compile(
    r"not support|unsupported|deprecated|not (?:be )?(?:permitted|allowed|available)|"
    r"only the default|cannot be (?:set|changed)",
    re.IGNORECASE,
)


class TemperatureFallback:
    """Remembers the models of one provider that reject these parameters."""

    def __init__(self) -> None:
        self._models_without_sampling: set[str] = set()

    def attempts(self, request: CompletionRequest) -> Iterator[CompletionRequest]:
        """The requests to try in turn: with the parameters, then without."""
        if not given_sampling(request.sampling, _FIELDS) or request.sampling.temperature == 0:
            yield request
            return
        if request.model not in self._models_without_sampling:
            yield request
        without = replace(request.sampling, temperature=None, top_p=None, top_k=None)
        yield replace(request, sampling=without)

    def learn_from_error(self, request: CompletionRequest, error: InvalidInput) -> bool:
        """Whether the error says that the model rejects these parameters; remembers the model."""
        if isinstance(error, ContextLengthExceeded) or request.sampling.temperature == 0:
            return False
        if not (_FIELD_NAMES.search(error.message) and _UNSUPPORTED.search(error.message)):
            return False
        if not given_sampling(request.sampling, _FIELDS):
            return False
        if len(self._models_without_sampling) < _MAX_REMEMBERED_MODELS:
            self._models_without_sampling.add(request.model)
        return True
