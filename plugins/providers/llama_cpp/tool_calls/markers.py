"""The marks with which models set off their tool calls."""

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
LIST_MARK, ARGUMENTS_MARK, ID_MARK = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
CODE_MARK = "<|python_tag|>"
FUNCTION_START, FUNCTION_END = "<function=", "</function>"
PARAMETER_START, PARAMETER_END = "<parameter=", "</parameter>"
# DeepSeek's; V3 and R1 put the arguments into a fence of Markdown.
_BAR = "\uff5c"
CALLS_BEGIN, CALLS_END = f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>"
CALL_BEGIN, FENCED_END = f"<{_BAR}tool▁call▁begin{_BAR}>", f"<{_BAR}tool▁call▁end{_BAR}>"
SEPARATOR = f"<{_BAR}tool▁sep{_BAR}>"
FENCE_START, FENCE_END = "```json\n", "\n```"
# Where these are control tokens, an answer's text must show them all the same.
SHOWN = (
    *(LIST_MARK, ARGUMENTS_MARK, ID_MARK, CODE_MARK, CALL_START, CALL_END),
    *(CALLS_BEGIN, CALL_BEGIN, SEPARATOR, FENCED_END, CALLS_END),
)
