"""What a request must look like before an engine sees it."""

import math
import secrets

import msgspec

from appliance.domain.messages import CompletionRequest, Sampling
from appliance.errors import InvalidInput

_SEED_BITS = 31
_MOST_STOPS = 64
_LONGEST_STOP = 1024


def checked(request: CompletionRequest) -> CompletionRequest:
    """The request with a seed. Raises InvalidInput for a value that no model can take."""
    if not request.messages:
        raise InvalidInput.at("messages", "at least one message is needed")
    if request.max_tokens is not None and request.max_tokens < 1:
        raise InvalidInput.at("max_tokens", "must be at least 1")
    _check(request.sampling)
    _encodable("messages", *(message.content for message in request.messages))
    _encodable("owner", request.owner)
    if request.sampling.seed is not None:
        return request
    drawn = msgspec.structs.replace(request.sampling, seed=secrets.randbits(_SEED_BITS))
    return msgspec.structs.replace(request, sampling=drawn)


def _check(sampling: Sampling) -> None:
    _in_range("temperature", sampling.temperature, 0, 100)
    _in_range("top_k", sampling.top_k, 0, 2**31 - 1)
    _in_range("top_p", sampling.top_p, 0, 1)
    _in_range("min_p", sampling.min_p, 0, 1)
    _in_range("repeat_penalty", sampling.repeat_penalty, 0.01, 100)
    if sampling.seed is not None and not -(2**63) <= sampling.seed < 2**63:
        raise InvalidInput.at("seed", "must fit in 64 bits")
    if len(sampling.stop) > _MOST_STOPS:
        raise InvalidInput.at("stop", f"at most {_MOST_STOPS} stop strings are allowed")
    _encodable("stop", *sampling.stop)
    if any(not 0 < len(stop) <= _LONGEST_STOP for stop in sampling.stop):
        raise InvalidInput.at("stop", f"each must have 1 to {_LONGEST_STOP} characters")


def _encodable(field: str, *texts: str) -> None:
    """Half a surrogate pair can stand in a Python string, but in no text of a model."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidInput.at(field, "must be valid Unicode text") from error


def _in_range(field: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise InvalidInput.at(field, f"must be from {low} to {high}")
