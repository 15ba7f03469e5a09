"""Tools with a type of their own that the client runs, as functions that a model can call.

Their inputs are those that Anthropic documents for bash_*, text_editor_*, memory_* and computer_*.
"""

import re
from typing import Annotated, Any

from msgspec import Meta, Struct

from appliance.api.anthropic.schemas import Block, ToolName
from appliance.api.http.validation import convert_field
from appliance.domain.messages import Tool

_TYPE = re.compile(r"(bash|text_editor|memory|computer)_(\d{8})")
_FIRST_WITHOUT_UNDO = "20250429"  # the text editor's version
_OLD_COMPUTER, _NEWEST_COMPUTER = "20241022", "20251124"

_TEXT, _NUMBER = {"type": "string"}, {"type": "number"}
_INTEGER, _FLAG = {"type": "integer"}, {"type": "boolean"}
_PATH = {"type": "string", "description": "Absolute path of a file or a folder."}
_RANGE = {
    "type": "array",
    "items": _INTEGER,
    "description": "For `view`: first and last line, counted from 1; -1 is the end of the file.",
}
_POINT = {"type": "array", "items": _INTEGER, "description": "[x, y] in pixels."}
_EDITS = {
    "file_text": {"type": "string", "description": "For `create`: the text of the file."},
    "old_str": {"type": "string", "description": "For `str_replace`: a text that occurs once."},
    "new_str": {"type": "string", "description": "For `str_replace`: the text in its place."},
    "insert_line": {"type": "integer", "description": "For `insert`: after this line; 0: first."},
    "insert_text": {"type": "string", "description": "For `insert`: the text to insert."},
    "view_range": _RANGE,
}
_ACTIONS = (
    "key", "type", "mouse_move", "left_click", "left_click_drag", "right_click", "middle_click",
    "double_click", "screenshot", "cursor_position",
)  # fmt: skip
_LATER_ACTIONS = (
    "hold_key", "left_mouse_down", "left_mouse_up", "triple_click", "scroll", "wait",
)  # fmt: skip

Pixels = Annotated[int, Meta(ge=1, le=100_000)]


class ClientToolBody(Struct, kw_only=True):
    name: ToolName
    strict: bool | None = None


class ComputerBody(ClientToolBody, kw_only=True):
    display_width_px: Pixels
    display_height_px: Pixels
    enable_zoom: bool = False


def read_client_tool(place: str, body: Block) -> Tool | None:
    """The function of a tool with such a type; None for other types. Raises InvalidInput."""
    found = _TYPE.fullmatch(str(body.get("type")))
    if found is None:
        return None
    family, version = found.groups()
    given = convert_field(body, ClientToolBody, place)
    match family:
        case "bash":
            described = _BASH
        case "text_editor":
            described = _text_editor(version)
        case "memory":
            described = _MEMORY
        case _:
            described = _computer(convert_field(body, ComputerBody, place), version)
    text, required, properties = described
    schema = {"type": "object", "properties": properties, "required": required}
    return Tool(given.name, text, schema, given.strict)


_Described = tuple[str, list[str], dict[str, Any]]

_BASH: _Described = (
    "Runs a command in a shell that keeps its state between calls. `restart` starts a new shell.",
    ["command"],
    {"command": _TEXT, "restart": _FLAG},
)
_MEMORY: _Described = (
    "Keeps notes between conversations in files below /memories. View that folder first.",
    ["command"],
    {
        "command": _TEXT
        | {"enum": ["view", "create", "str_replace", "insert", "delete", "rename"]},
        "path": _PATH,
        **_EDITS,
        "old_path": {"type": "string", "description": "For `rename`."},
        "new_path": {"type": "string", "description": "For `rename`."},
    },
)


def _text_editor(version: str) -> _Described:
    commands = ["view", "create", "str_replace", "insert"]
    if version < _FIRST_WITHOUT_UNDO:
        commands.append("undo_edit")
    properties = {"command": _TEXT | {"enum": commands}, "path": _PATH, **_EDITS}
    return "Views, creates and edits text files.", ["command", "path"], properties


def _computer(body: ComputerBody, version: str) -> _Described:
    actions = [*_ACTIONS, *(_LATER_ACTIONS if version > _OLD_COMPUTER else ())]
    properties: dict[str, Any] = {"coordinate": _POINT, "text": _TEXT}
    if version > _OLD_COMPUTER:
        directions = {"type": "string", "enum": ["up", "down", "left", "right"]}
        properties |= {
            "start_coordinate": _POINT,
            "scroll_direction": directions,
            "scroll_amount": _INTEGER,
            "duration": _NUMBER | {"description": "In seconds."},
        }
    if version >= _NEWEST_COMPUTER and body.enable_zoom:
        actions.append("zoom")
        properties["region"] = {
            "type": "array", "items": _INTEGER, "description": "[x1, y1, x2, y2] in pixels.",
        }  # fmt: skip
    text = (
        "Controls a computer by mouse, keyboard and screenshots. Its screen is "
        f"{body.display_width_px} by {body.display_height_px} pixels."
    )
    return text, ["action"], {"action": _TEXT | {"enum": actions}, **properties}
