"""The tools of a request, offered to the model as functions.

A model calls functions only. Custom tools and client_tools.py become functions, functions of a
namespace get its name in front, and call_items.py restores the calls. Tools that OpenAI's own
servers run (web_search, mcp, image_generation …) are left out, because clients can't be told not
to send them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from appliance.api.http.ignored_fields import IgnoredField
from appliance.api.http.validation import convert_field
from appliance.api.openai.responses.client_tools import (
    APPLY_PATCH,
    FREE_TEXT,
    LOCAL_SHELL,
    SHELL,
)
from appliance.api.openai.responses.schemas import (
    CustomBody,
    FunctionBody,
    NamespaceBody,
    ShellBody,
    ToolSearchBody,
)
from appliance.domain.messages import Tool
from appliance.errors import InvalidInput

Json = dict[str, Any]

FUNCTION, CUSTOM, NAMESPACE = "function", "custom", "namespace"
TOOL_SEARCH = "tool_search"
_IN_NAMESPACE = (FUNCTION, CUSTOM)
# How OpenAI's models name functions without a namespace.
_NO_NAMESPACE = "functions"


class OfferedTool(Struct, frozen=True):
    """A function that the model may call, and the client's `type` and `name` of the tool."""

    function: Tool
    type: str
    name: str
    namespace: str = ""


class ToolSet:
    """The offered tools by the names of their functions.

    `declarations` are those of the request that the model was offered; `ignored` the others.
    """

    def __init__(self, bodies: Sequence[Json]) -> None:
        self._offered: dict[str, OfferedTool] = {}
        self.declarations: list[Json] = []
        self.ignored: list[IgnoredField] = []
        for place, body in places("tools", bodies):
            found = list(self._read(place, body))
            self._require_new_names(found)
            self._offer(found)
            if found:
                self.declarations.append(_offered_part(body))

    @property
    def functions(self) -> tuple[Tool, ...]:
        return tuple(each.function for each in self._offered.values())

    def __iter__(self) -> Iterator[OfferedTool]:
        return iter(self._offered.values())

    def find(self, name: str) -> OfferedTool | None:
        """The tool whose function has that name."""
        return self._offered.get(name)

    def add(self, place: str, bodies: Sequence[Json]) -> list[str]:
        """Offer tools of an input item, which replace those of their names; their names."""
        found = [tool for at, body in places(place, bodies) for tool in self._read(at, body)]
        self._offer(found)
        return [each.function.name for each in found]

    def ignore(self, place: str, body: Json) -> None:
        self.ignored.append(IgnoredField(place, str(body.get("type"))))

    def _offer(self, tools: Iterable[OfferedTool]) -> None:
        self._offered.update((each.function.name, each) for each in tools)

    def _require_new_names(self, tools: Sequence[OfferedTool]) -> None:
        names = [each.function.name for each in tools]
        if len(set(names)) < len(names) or not self._offered.keys().isdisjoint(names):
            raise InvalidInput.at("tools", "has two tools of the same name")

    def _read(self, place: str, body: Json) -> Iterator[OfferedTool]:
        kind = body.get("type")
        if kind == NAMESPACE:
            yield from self._read_namespace(place, convert_field(body, NamespaceBody, place))
        elif (tool := _read_tool(place, body)) is not None:
            yield tool
        else:
            self.ignore(place, body)

    def _read_namespace(self, place: str, body: NamespaceBody) -> Iterator[OfferedTool]:
        namespace = "" if body.name == _NO_NAMESPACE else body.name
        for at, inner in places(f"{place}.tools", body.tools):
            tool = _read_tool(at, inner) if inner.get("type") in _IN_NAMESPACE else None
            if tool is None:
                self.ignore(at, inner)
            else:
                name = function_name(tool.name, namespace)
                yield replace(tool, function=replace(tool.function, name=name), namespace=namespace)


def function_name(name: str, namespace: str | None) -> str:
    """The name under which the model knows a tool. Providers shorten names that are too long."""
    return f"{namespace}__{name}" if namespace and namespace != _NO_NAMESPACE else name


def places(field: str, bodies: Iterable[Json]) -> Iterator[tuple[str, Json]]:
    """Each element of a list with its place in the request."""
    for index, body in enumerate(bodies):
        yield f"{field}[{index}]", body


def _offered_part(body: Json) -> Json:
    """The declaration, a namespace without the tools that were left out."""
    if body["type"] != NAMESPACE:
        return body
    return body | {"tools": [each for each in body["tools"] if each.get("type") in _IN_NAMESPACE]}


def _read_tool(place: str, body: Json) -> OfferedTool | None:
    """The tool of a declaration; None if it can't be served. Raises InvalidInput."""
    reader = _READERS.get(str(body.get("type")))
    return reader(place, body) if reader else None


def _read_function(place: str, body: Json) -> OfferedTool:
    given = convert_field(body, FunctionBody, place)
    tool = Tool(given.name, given.description or "", given.parameters or {}, given.strict)
    return OfferedTool(tool, FUNCTION, given.name)


def _read_custom(place: str, body: Json) -> OfferedTool:
    given = convert_field(body, CustomBody, place)
    text, form = given.description or "", given.format
    if form is not None and form.type == "grammar":
        if not (form.syntax and form.definition):
            raise InvalidInput.at(f"{place}.format", "a grammar requires `syntax` and `definition`")
        text += f"\n\nThe input must match this {form.syntax} grammar:\n{form.definition}"
    return OfferedTool(Tool(given.name, text.strip(), FREE_TEXT), CUSTOM, given.name)


def _read_shell(place: str, body: Json) -> OfferedTool | None:
    """Only a shell of the client's: containers are OpenAI's."""
    environment = convert_field(body, ShellBody, place).environment
    is_local = environment is None or environment.type == "local"
    return OfferedTool(SHELL, SHELL.name, SHELL.name) if is_local else None


def _read_tool_search(place: str, body: Json) -> OfferedTool | None:
    """Only a search that the client carries out."""
    given = convert_field(body, ToolSearchBody, place)
    if given.execution != "client" or given.parameters is None:
        return None
    tool = Tool(TOOL_SEARCH, given.description or "", given.parameters)
    return OfferedTool(tool, TOOL_SEARCH, TOOL_SEARCH)


def _offer_as_is(tool: Tool) -> Callable[[str, Json], OfferedTool]:
    return lambda _place, _body: OfferedTool(tool, tool.name, tool.name)


_READERS: dict[str, Callable[[str, Json], OfferedTool | None]] = {
    FUNCTION: _read_function,
    CUSTOM: _read_custom,
    SHELL.name: _read_shell,
    TOOL_SEARCH: _read_tool_search,
    LOCAL_SHELL.name: _offer_as_is(LOCAL_SHELL),
    APPLY_PATCH.name: _offer_as_is(APPLY_PATCH),
}
