"""The markers around tool calls, and the parser of one call, for each ToolCallFormat."""

from collections.abc import Mapping

from msgspec import Struct

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.tool_calls import markers
from plugins.providers.llama_cpp.tool_calls.deepseek import parse_deepseek_call
from plugins.providers.llama_cpp.tool_calls.json_calls import (
    parse_json_call,
    parse_json_calls,
    parse_mistral_calls,
)
from plugins.providers.llama_cpp.tool_calls.qwen_xml import parse_qwen_xml_call


class CallMarkers(Struct, frozen=True):
    """The markers around a call.

    Each of `starts` may open a call. `end` closes it; "" if only the end of the completion
    does. `closing` may follow the last call and carries no meaning.
    """

    starts: tuple[str, ...]
    end: str = ""
    closing: str = ""


_DEEPSEEK = CallMarkers(
    (markers.DEEPSEEK_CALLS_BEGIN, markers.DEEPSEEK_CALL_BEGIN),
    markers.DEEPSEEK_CALL_END,
    markers.DEEPSEEK_CALLS_END,
)
CALL_MARKERS = {
    ToolCallFormat.HERMES: CallMarkers((markers.CALL_START,), markers.CALL_END),
    ToolCallFormat.MISTRAL: CallMarkers((markers.TOOL_CALLS_MARKER,)),
    ToolCallFormat.LLAMA: CallMarkers((markers.PYTHON_TAG,)),
    ToolCallFormat.QWEN_XML: CallMarkers(
        (markers.CALL_START, markers.FUNCTION_START), markers.FUNCTION_END, markers.CALL_END
    ),
    ToolCallFormat.DEEPSEEK_V3: _DEEPSEEK,
    ToolCallFormat.DEEPSEEK_V31: _DEEPSEEK,
}
# The marker after which a completion may be stopped if it must be one call.
FINAL_MARKERS = {
    ToolCallFormat.HERMES: markers.CALL_END,
    ToolCallFormat.QWEN_XML: markers.CALL_END,
    ToolCallFormat.DEEPSEEK_V3: markers.DEEPSEEK_CALL_END,
    ToolCallFormat.DEEPSEEK_V31: markers.DEEPSEEK_CALL_END,
}


def parse_calls(format_: ToolCallFormat, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:
    """The calls in a text that starts with a start marker, if it holds nothing else.

    The end marker may be missing.
    """
    match format_:
        case ToolCallFormat.HERMES:
            inner = text.removeprefix(markers.CALL_START).removesuffix(markers.CALL_END)
            return _as_list(parse_json_call(inner, tools))
        case ToolCallFormat.LLAMA:
            return parse_json_calls(text.removeprefix(markers.PYTHON_TAG), tools)
        case ToolCallFormat.MISTRAL:
            return parse_mistral_calls(text, markers.TOOL_CALLS_MARKER, tools)
        case ToolCallFormat.QWEN_XML:
            return _as_list(parse_qwen_xml_call(text, tools))
        case ToolCallFormat.DEEPSEEK_V3 | ToolCallFormat.DEEPSEEK_V31:
            return _as_list(parse_deepseek_call(text, tools))


def _as_list(call: ToolCall | None) -> list[ToolCall]:
    return [call] if call else []
