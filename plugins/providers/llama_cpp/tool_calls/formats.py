"""Where tool calls begin and end in an answer, for each form in which models write them."""

from collections.abc import Mapping

from msgspec import Struct

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.tool_calls import markers as marks
from plugins.providers.llama_cpp.tool_calls.deepseek import fenced_call
from plugins.providers.llama_cpp.tool_calls.json_calls import call_of, listed_calls, row_of_calls
from plugins.providers.llama_cpp.tool_calls.qwen_xml import xml_call


class Frame(Struct, frozen=True):
    """`starts`: each may open a call. `end` closes one, "" if only the answer's end does.

    `closing` may stand behind the last call, and says nothing.
    """

    starts: tuple[str, ...]
    end: str = ""
    closing: str = ""


_FENCES = Frame((marks.CALLS_BEGIN, marks.CALL_BEGIN), marks.FENCED_END, marks.CALLS_END)
FRAMES = {
    CallForm.TAGGED: Frame((marks.CALL_START,), marks.CALL_END),
    CallForm.LISTED: Frame((marks.LIST_MARK,)),
    CallForm.BARE: Frame((marks.CODE_MARK,)),
    CallForm.XML: Frame(
        (marks.CALL_START, marks.FUNCTION_START), marks.FUNCTION_END, marks.CALL_END
    ),
    CallForm.FENCED: _FENCES,
    CallForm.PARTED: _FENCES,
}
# The text with which an answer ends where one call is all that is wanted.
LAST_WORDS = {
    CallForm.TAGGED: marks.CALL_END,
    CallForm.XML: marks.CALL_END,
    CallForm.FENCED: marks.FENCED_END,
    CallForm.PARTED: marks.FENCED_END,
}


def read_calls(form: CallForm, text: str, tools: Mapping[str, Tool]) -> list[ToolCall]:
    """The calls in a text that begins with one of the form's starts, if that is all it holds.

    The form's end may be missing.
    """
    match form:
        case CallForm.TAGGED:
            inner = text.removeprefix(marks.CALL_START).removesuffix(marks.CALL_END)
            return _one(call_of(inner, tools))
        case CallForm.BARE:
            return row_of_calls(text.removeprefix(marks.CODE_MARK), tools)
        case CallForm.LISTED:
            return listed_calls(text, marks.LIST_MARK, tools)
        case CallForm.XML:
            return _one(xml_call(text, tools))
        case CallForm.FENCED | CallForm.PARTED:
            return _one(fenced_call(text, tools))


def _one(call: ToolCall | None) -> list[ToolCall]:
    return [call] if call else []
