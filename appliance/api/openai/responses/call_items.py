"""Items of tool calls and of their outputs: what a function call becomes for the client, and how
one of the history is read.

Each type of tool has its own: function_call, custom_tool_call, shell_call …
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from appliance.api.http.ids import new_id
from appliance.api.http.validation import convert_field
from appliance.api.openai.responses.client_tools import (
    APPLY_PATCH,
    LOCAL_SHELL,
    SHELL,
    DeleteFile,
    LocalShellArguments,
    PatchArguments,
    ShellArguments,
    WriteFile,
)
from appliance.api.openai.responses.tools import (
    CUSTOM,
    FUNCTION,
    TOOL_SEARCH,
    Json,
    OfferedTool,
    function_name,
)
from appliance.domain.messages import ToolCall
from appliance.errors import ProviderFailed

T = TypeVar("T")
NonEmpty = Annotated[str, Meta(min_length=1)]


class CallKind(Struct, frozen=True):
    """How calls of one type of tool look: `field` holds what the model wrote.

    `events` is the name of the events that stream the field, "" if the item alone is sent.
    """

    item_type: str
    id_prefix: str
    field: str
    events: str = ""


KINDS: Mapping[str, CallKind] = {
    FUNCTION: CallKind("function_call", "fc_", "arguments", "response.function_call_arguments"),
    CUSTOM: CallKind("custom_tool_call", "ctc_", "input", "response.custom_tool_call_input"),
    LOCAL_SHELL.name: CallKind("local_shell_call", "lsh_", "action"),
    SHELL.name: CallKind("shell_call", "sh_", "action"),
    APPLY_PATCH.name: CallKind("apply_patch_call", "apc_", "operation"),
    TOOL_SEARCH: CallKind("tool_search_call", "tsc_", "arguments"),
}
_ID_LENGTH = 32


class CallItem(Struct):
    call_id: NonEmpty
    name: NonEmpty
    arguments: str
    namespace: str | None = None


class CustomCallItem(Struct):
    call_id: NonEmpty
    name: NonEmpty
    input: str
    namespace: str | None = None


class LocalShellCallItem(Struct):
    """Old clients send `id` only."""

    action: LocalShellArguments
    call_id: str | None = None
    id: str | None = None


class ShellCallItem(Struct):
    call_id: NonEmpty
    action: ShellArguments


class PatchCallItem(Struct):
    call_id: NonEmpty
    operation: PatchArguments


class SearchCallItem(Struct):
    """A search without `call_id` was the server's own."""

    arguments: Any
    call_id: str | None = None


def build_call_item(call: ToolCall, tool: OfferedTool | None) -> tuple[CallKind, Json]:
    """The completed item of a call. Raises ProviderFailed if its arguments do not fit the tool."""
    kind = KINDS[tool.type if tool else FUNCTION]
    item: Json = {
        "id": new_id(kind.id_prefix, _ID_LENGTH),
        "type": kind.item_type,
        "status": "completed",
        "call_id": call.id,
    }
    if kind.events:
        item["name"] = tool.name if tool else call.name
        if tool and tool.namespace:
            item["namespace"] = tool.namespace
    if kind.item_type == KINDS[TOOL_SEARCH].item_type:
        item["execution"] = "client"
    return kind, item | {kind.field: _FIELD_OF[kind.item_type](call)}


def read_call(place: str, item: Json) -> ToolCall | None:
    """The function call that an item of the history stands for; None if it stands for none."""
    return _CALLS[item["type"]](place, item)


def _free_text(call: ToolCall) -> str:
    """The input of a custom tool; a model may also write it without the JSON around it."""
    try:
        return msgspec.json.decode(call.arguments, type=_FreeText).input
    except msgspec.MsgspecError:
        return call.arguments


class _FreeText(Struct):
    input: str


def _operation(call: ToolCall) -> Json:
    given = _decode(call, PatchArguments)
    kind = DeleteFile if given.type == "delete_file" else WriteFile
    return msgspec.to_builtins(_decode(call, kind))


def _decode(call: ToolCall, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(call.arguments or "{}", type=kind)
    except msgspec.MsgspecError as error:
        raise ProviderFailed(
            f"the model called {call.name[:80]!r} with arguments that do not fit: {error}"
        ) from None


_FIELD_OF: dict[str, Callable[[ToolCall], Any]] = {
    "function_call": lambda call: call.arguments or "{}",
    "custom_tool_call": _free_text,
    "local_shell_call": lambda call: {
        "type": "exec",
        "env": {},
        **msgspec.to_builtins(_decode(call, LocalShellArguments)),
    },
    "shell_call": lambda call: msgspec.to_builtins(_decode(call, ShellArguments)),
    "apply_patch_call": _operation,
    "tool_search_call": lambda call: _decode(call, dict[str, Any]),
}


def _function_call(place: str, item: Json) -> ToolCall:
    body = convert_field(item, CallItem, place)
    return ToolCall(body.call_id, function_name(body.name, body.namespace), body.arguments)


def _custom_call(place: str, item: Json) -> ToolCall:
    body = convert_field(item, CustomCallItem, place)
    name = function_name(body.name, body.namespace)
    return ToolCall(body.call_id, name, _encode({"input": body.input}))


def _local_shell_call(place: str, item: Json) -> ToolCall | None:
    body = convert_field(item, LocalShellCallItem, place)
    call_id = body.call_id or body.id
    return ToolCall(call_id, LOCAL_SHELL.name, _encode(body.action)) if call_id else None


def _shell_call(place: str, item: Json) -> ToolCall:
    body = convert_field(item, ShellCallItem, place)
    return ToolCall(body.call_id, SHELL.name, _encode(body.action))


def _patch_call(place: str, item: Json) -> ToolCall:
    body = convert_field(item, PatchCallItem, place)
    return ToolCall(body.call_id, APPLY_PATCH.name, _encode(body.operation))


def _search_call(place: str, item: Json) -> ToolCall | None:
    body = convert_field(item, SearchCallItem, place)
    return ToolCall(body.call_id, TOOL_SEARCH, _encode(body.arguments)) if body.call_id else None


def _encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


_CALLS: dict[str, Callable[[str, Json], ToolCall | None]] = {
    "function_call": _function_call,
    "custom_tool_call": _custom_call,
    "local_shell_call": _local_shell_call,
    "shell_call": _shell_call,
    "apply_patch_call": _patch_call,
    "tool_search_call": _search_call,
}
CALL_TYPES = frozenset(_CALLS)
