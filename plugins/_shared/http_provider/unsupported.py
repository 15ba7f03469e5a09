"""What a provider can't do is refused by name: an answer is never quietly a weaker one.

A value that equals the box's default counts as not asked for: it is not sent, and the
provider's own default holds. `context_shift`, `owner` and `shared_system` are permissions
and facts for the local engine, and are not sent either.
"""

from collections.abc import Iterable
from typing import Any

from msgspec import structs

from appliance.domain.messages import CompletionRequest, OutputKind, Sampling, ToolUse
from appliance.errors import InvalidInput

USUAL = Sampling()
_USUAL = structs.asdict(USUAL)


def asked(sampling: Sampling, fields: Iterable[str]) -> dict[str, Any]:
    """Those of the fields that are not the box's default, in their order."""
    values = structs.asdict(sampling)
    return {field: values[field] for field in fields if values[field] != _USUAL[field]}


def refuse(name: str, request: CompletionRequest, fields: Iterable[str]) -> None:
    """Raise InvalidInput for a sampling field that is asked for and can't be had."""
    if not_had := list(asked(request.sampling, fields)):
        raise cannot(name, not_had[0])


def check(name: str, request: CompletionRequest) -> None:
    """What no far provider does, or does in no form that can be relied on."""
    if request.output.kind is OutputKind.GRAMMAR:
        raise cannot(name, "grammar")
    if request.raw is not None and request.tools:
        raise InvalidInput.at("tools", "a raw prompt has none")
    if request.tool_choice.use is ToolUse.REQUIRED and not request.tools:
        raise InvalidInput.at("tool_choice", "a tool is required, and there is none")


def cannot(name: str, field: str) -> InvalidInput:
    """The error for a field that this provider does not have."""
    return InvalidInput.at(field, f"provider {name} can't do this; leave it out or ask another")
