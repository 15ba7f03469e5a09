"""The markers that models put around their tool calls."""

CALL_START, CALL_END = "<tool_call>", "</tool_call>"
TOOL_CALLS_MARKER, ARGS_MARKER, CALL_ID_MARKER = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
PYTHON_TAG = "<|python_tag|>"
FUNCTION_START, FUNCTION_END = "<function=", "</function>"
PARAMETER_START, PARAMETER_END = "<parameter=", "</parameter>"
# DeepSeek; V3 and R1 put the arguments into a Markdown fence.
_BAR = "\uff5c"
DEEPSEEK_CALLS_BEGIN, DEEPSEEK_CALLS_END = (
    f"<{_BAR}tool▁calls▁begin{_BAR}>",
    f"<{_BAR}tool▁calls▁end{_BAR}>",
)
DEEPSEEK_CALL_BEGIN, DEEPSEEK_CALL_END = (
    f"<{_BAR}tool▁call▁begin{_BAR}>",
    f"<{_BAR}tool▁call▁end{_BAR}>",
)
DEEPSEEK_SEPARATOR = f"<{_BAR}tool▁sep{_BAR}>"
JSON_FENCE_START, JSON_FENCE_END = "```json\n", "\n```"
# Where these are control tokens, the engine must detokenize them all the same.
VISIBLE_MARKERS = (
    *(TOOL_CALLS_MARKER, ARGS_MARKER, CALL_ID_MARKER, PYTHON_TAG, CALL_START, CALL_END),
    *(
        DEEPSEEK_CALLS_BEGIN,
        DEEPSEEK_CALL_BEGIN,
        DEEPSEEK_SEPARATOR,
        DEEPSEEK_CALL_END,
        DEEPSEEK_CALLS_END,
    ),
)
