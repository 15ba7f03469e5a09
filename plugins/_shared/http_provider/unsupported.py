"""Rejects request fields that a provider doesn't support, rather than ignoring them.

Only what the caller gave is sent; the provider's own defaults apply to the rest. A value that
changes nothing, such as a penalty of 0, is not refused by a provider without the option.
`context_shift`, `owner` and `shared_system` concern the local engine only and are never sent.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from appliance.domain.messages import CompletionRequest, OutputKind, Sampling, ToolUse
from appliance.errors import InvalidInput

_WITHOUT_EFFECT: dict[str, Any] = {
    "top_k": 0,
    "min_p": 0,
    "repeat_penalty": 1,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": (),
}


def given_sampling(sampling: Sampling, fields: Iterable[str]) -> dict[str, Any]:
    """Those of the fields that the caller gave, in the order of `fields`."""
    values = structs.asdict(sampling)
    return {field: values[field] for field in fields if values[field] is not None}


def refuse_sampling(name: str, request: CompletionRequest, fields: Iterable[str]) -> None:
    """Raise InvalidInput if one of these sampling fields was given and has an effect."""
    for field, value in given_sampling(request.sampling, fields).items():
        if value != _WITHOUT_EFFECT.get(field):
            raise unsupported_field(name, field)


def check_request(name: str, request: CompletionRequest) -> None:
    """Raise InvalidInput for what no remote provider supports reliably."""
    if request.output.kind is OutputKind.GRAMMAR:
        raise unsupported_field(name, "grammar")
    if request.raw is not None and request.tools:
        raise InvalidInput.at("tools", "a raw prompt takes no tools")
    if request.tool_choice.use is ToolUse.REQUIRED and not request.tools:
        raise InvalidInput.at("tool_choice", "a tool call is required, but there are no tools")


def unsupported_field(name: str, field: str) -> InvalidInput:
    """The error for a field that this provider does not support.

    Its text must not match what TemperatureFallback takes for the provider's own refusal.
    """
    return InvalidInput.at(field, f"provider {name} has no such option; omit it or use another")
