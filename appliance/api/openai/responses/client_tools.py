"""Tools with a type of their own that the client runs, as functions that a model can call.

A model reads the description and the schema; the structs decode the arguments that it wrote.
"""

from typing import Any, Literal

from msgspec import Struct

from appliance.domain.messages import Tool


class LocalShellArguments(Struct, omit_defaults=True):
    command: list[str]
    working_directory: str | None = None
    timeout_ms: int | None = None


class ShellArguments(Struct, omit_defaults=True):
    commands: list[str]
    timeout_ms: int | None = None
    max_output_length: int | None = None


class WriteFile(Struct):
    type: Literal["create_file", "update_file"]
    path: str
    diff: str


class DeleteFile(Struct):
    type: Literal["delete_file"]
    path: str


class PatchArguments(Struct, omit_defaults=True):
    """`diff` belongs to the types that write a file."""

    type: Literal["create_file", "update_file", "delete_file"]
    path: str
    diff: str | None = None


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


_STRINGS = {"type": "array", "items": {"type": "string"}}
_TIMEOUT = {"type": "integer", "description": "Time limit in milliseconds."}

FREE_TEXT = _object(
    ["input"], input={"type": "string", "description": "The whole input of the tool, as text."}
)
"""The parameters of a custom tool, whose input is free text."""

LOCAL_SHELL = Tool(
    "local_shell",
    "Runs a program on the user's computer and returns its output.",
    _object(
        ["command"],
        command=_STRINGS | {"description": 'The program and its arguments: ["ls", "-l"].'},
        working_directory={"type": "string", "description": "The folder to run it in."},
        timeout_ms=_TIMEOUT,
    ),
)
SHELL = Tool(
    "shell",
    "Runs shell commands on the user's computer and returns their output.",
    _object(
        ["commands"],
        commands=_STRINGS | {"description": 'Command lines, run in order: ["ls -l", "pwd"].'},
        timeout_ms=_TIMEOUT,
        max_output_length={"type": "integer", "description": "Characters of output to return."},
    ),
)
APPLY_PATCH = Tool(
    "apply_patch",
    "Creates, updates or deletes one file. `diff` is needed to create or update it. A new file has "
    "each line after a `+`. An update has sections that start with a line `@@`; in them, lines "
    "start with a space (unchanged), `-` (removed) or `+` (added).",
    _object(
        ["type", "path"],
        type={"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
        path={"type": "string", "description": "The file, relative to the workspace."},
        diff={"type": "string"},
    ),
)
