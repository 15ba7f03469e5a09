"""Tools, and calls of them as Qwen3-Coder and DeepSeek write them."""

from appliance.domain.messages import Tool

BAR = "\uff5c"
CALLS_BEGIN, CALL_BEGIN = f"<{BAR}tool▁calls▁begin{BAR}>", f"<{BAR}tool▁call▁begin{BAR}>"
SEPARATOR = f"<{BAR}tool▁sep{BAR}>"
CALL_END, CALLS_END = f"<{BAR}tool▁call▁end{BAR}>", f"<{BAR}tool▁calls▁end{BAR}>"

WRITE_FILE = Tool(
    "write_file",
    "Writes a file",
    {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "text": {"type": "string"},
            "mode": {"enum": ["w", "a"]},
            "times": {"type": "integer", "minimum": 1, "maximum": 9},
            "lines": {"$ref": "#/$defs/lines"},
            "force": {"type": ["boolean", "null"]},
            "note": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        },
        "required": ["path", "text"],
        "$defs": {"lines": {"type": "array", "items": {"type": "integer"}}},
    },
)
NOW = Tool("now")
TOOLS = (WRITE_FILE, NOW)
XML_NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
ARGUMENTS = '{"path": "b", "text": "```"}'
DEEPSEEK_V3_CALL = f"{CALL_BEGIN}function{SEPARATOR}write_file\n```json\n{ARGUMENTS}\n```{CALL_END}"
DEEPSEEK_V3_NOW = f"{CALL_BEGIN}function{SEPARATOR}now\n```json\n{{}}\n```{CALL_END}"
DEEPSEEK_V31_CALL = f"{CALL_BEGIN}write_file{SEPARATOR}{ARGUMENTS}{CALL_END}"
DEEPSEEK_V31_NOW = f"{CALL_BEGIN}now{SEPARATOR}{{}}{CALL_END}"
