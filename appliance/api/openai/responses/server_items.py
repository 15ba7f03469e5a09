"""What tools of OpenAI's servers did earlier in a conversation, as text for the model.

Items that hold nothing to read here (web_search_call, compaction …) become no text.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct

from appliance.api.http.validation import convert_field
from appliance.api.openai.responses.schemas import Item


class McpCallItem(Struct):
    name: str
    arguments: str
    output: str | None = None
    error: Any = None


class CodeLogs(Struct):
    logs: str | None = None


class CodeCallItem(Struct):
    code: str | None = None
    outputs: list[CodeLogs] | None = None


class FoundText(Struct):
    filename: str | None = None
    text: str | None = None


class FileSearchItem(Struct):
    results: list[FoundText] | None = None


class ImageItem(Struct):
    revised_prompt: str | None = None


def describe_server_item(place: str, item: Item) -> str:
    """The text of an item of one of SERVER_TYPES; "" if it has none. Raises InvalidInput."""
    return _DESCRIPTIONS[item["type"]](place, item)


def _mcp_call(place: str, item: Item) -> str:
    body = convert_field(item, McpCallItem, place)
    result = body.output if body.output is not None else f"failed: {body.error}"
    return f"[called {body.name} with {body.arguments}: {result}]"


def _code_call(place: str, item: Item) -> str:
    body = convert_field(item, CodeCallItem, place)
    logs = "\n".join(each.logs for each in body.outputs or () if each.logs)
    return f"[ran code]\n{body.code}\n[output]\n{logs}" if body.code else ""


def _file_search(place: str, item: Item) -> str:
    found = convert_field(item, FileSearchItem, place).results or ()
    texts = [f"{each.filename or 'file'}: {each.text}" for each in found if each.text]
    return "\n".join(["[found in files]", *texts]) if texts else ""


def _image(place: str, item: Item) -> str:
    prompt = convert_field(item, ImageItem, place).revised_prompt
    return f"[generated an image: {prompt}]" if prompt else "[generated an image]"


_DESCRIPTIONS: Mapping[str, Callable[[str, Item], str]] = {
    "mcp_call": _mcp_call,
    "code_interpreter_call": _code_call,
    "file_search_call": _file_search,
    "image_generation_call": _image,
}
SERVER_TYPES = frozenset(_DESCRIPTIONS)
