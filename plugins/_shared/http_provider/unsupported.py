"""Rejects request fields that a provider doesn't support, rather than ignoring them.

A sampling value that equals the appliance's default is not sent: the provider's own
default applies. `context_shift`, `owner` and `shared_system` concern the local engine only
and are never sent.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from appliance.domain.messages import CompletionRequest, OutputKind, Sampling, ToolUse
from appliance.errors import InvalidInput

DEFAULT_SAMPLING = Sampling()
_DEFAULTS = structs.asdict(DEFAULT_SAMPLING)


def non_default_sampling(sampling: Sampling, fields: Iterable[str]) -> dict[str, Any]:
    """The given fields whose values differ from the default, in the given order."""
    values = structs.asdict(sampling)
    return {field: values[field] for field in fields if values[field] != _DEFAULTS[field]}


def refuse_sampling(name: str, request: CompletionRequest, fields: Iterable[str]) -> None:
    """Raise InvalidInput if one of these sampling fields differs from its default."""
    if set_fields := list(non_default_sampling(request.sampling, fields)):
        raise unsupported_field(name, set_fields[0])


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
