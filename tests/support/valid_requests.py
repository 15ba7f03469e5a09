"""One or more valid requests per route, as JSON values: what the fuzzers start from."""

from dataclasses import dataclass
from typing import Any

PROMPT = "Write a Python function `double(x)` that returns twice x. double(2) == 4"
_SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "pattern": "^[A-Z][a-z]{2,20}$"},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 7},
        "unit": {"$ref": "#/$defs/unit"},
    },
    "required": ["city"],
    "$defs": {"unit": {"enum": ["C", "F", None]}},
}
_TOOL_CALL = {
    "id": "call_1", "type": "function",
    "function": {"name": "weather", "arguments": '{"city": "Bern"}'},
}  # fmt: skip
_FUNCTION = {"name": "weather", "description": "The weather.", "parameters": _SCHEMA}


@dataclass(frozen=True)
class ValidRequest:
    """`works`: it does what takes time even when all is well, as running a program."""

    method: str
    path: str
    body: Any = None
    works: bool = False


CHAT = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [_TOOL_CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "user", "content": "Thanks"},
    ],
    "max_tokens": 8, "temperature": 0.5, "top_p": 0.9, "n": 1, "stop": ["\n\n"], "seed": 7,
    "logit_bias": {"5": 1.5}, "frequency_penalty": 0.1, "top_k": 20, "metadata": {"a": "b"},
    "stream": True, "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": _FUNCTION}], "tool_choice": "auto",
    "parallel_tool_calls": False,
}  # fmt: skip
FORMATTED_CHAT = {
    "messages": [{"role": "user", "content": "Weather in Bern?"}],
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": _SCHEMA, "strict": True},
    },
    "max_completion_tokens": 8, "logprobs": True, "top_logprobs": 2,
}  # fmt: skip
COMPLETION = {
    "prompt": "def f(", "suffix": "):", "max_tokens": 4, "logprobs": 1, "echo": False,
    "best_of": 1, "grammar": 'root ::= "a" | "b"',
}  # fmt: skip
EMBEDDING = {
    "model": "vectors", "input": ["one", "two"], "encoding_format": "float", "dimensions": 2,
}  # fmt: skip
RESPONSE = {
    "model": "auto",
    "instructions": "Be brief.",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"role": "user", "content": "Thanks"},
    ],
    "tools": [{"type": "function", "strict": False, **_FUNCTION}], "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "answer", "schema": _SCHEMA}},
    "max_output_tokens": 16, "temperature": 0.5, "store": False, "stream": True,
    "reasoning": {"effort": "low"}, "include": [], "truncation": "auto", "metadata": {"a": "b"},
}  # fmt: skip
MESSAGE = {
    "model": "auto",
    "max_tokens": 8,
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Bern"}}
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": "sunny"},
                {"type": "text", "text": "Thanks"},
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "The weather.", "input_schema": _SCHEMA}],
    "tool_choice": {"type": "auto"}, "temperature": 0.5, "top_k": 5, "stop_sequences": ["END"],
    "metadata": {"user_id": "u"}, "stream": True,
}  # fmt: skip
COUNT = {name: MESSAGE[name] for name in ("model", "system", "messages", "tools")}
TASK: dict[str, Any] = {
    "prompt": PROMPT,
    "task_type": "code_generation",
    "task_id": "task-1",
    "persona_config": {"persona": "developer", "slash_commands": [], "custom_instructions": "x"},
    "context": {"temperature": 0.5, "language": "python"},
    "files": [{"path": "src/a.py", "content": "x = 1\n"}],
    "tests": [{"name": "test_a.py", "content": "def test_a(): assert True\n"}],
    "orchestration_config": {"max_branches": 1, "seed": 7, "timeout": 20},
    "labels": ["one"],
}
RUN = {
    "language": "python",
    "files": [{"path": "main.py", "content": "print(input())"}, {"path": "b.txt", "content": "b"}],
    "entry": "main.py", "args": ["a"], "stdin": "hello\n", "environment": {"A": "b"},
    "limits": {"wall_s": 2, "cpu_s": 2, "memory_bytes": 67108864, "processes": 8},
    "artifacts": ["*.txt"],
}  # fmt: skip
PISTON = {
    "language": "python", "version": "*", "stdin": "", "args": ["a"], "run_timeout": 2000,
    "files": [{"name": "main.py", "content": "print(1)", "encoding": "utf8"}],
    "run_memory_limit": 67108864,
}  # fmt: skip

DIALECTS: dict[str, tuple[ValidRequest, ...]] = {
    "chat": (
        ValidRequest("POST", "/v1/chat/completions", CHAT),
        ValidRequest("POST", "/v1/chat/completions", FORMATTED_CHAT),
    ),
    "completions": (ValidRequest("POST", "/v1/completions", COMPLETION),),
    "embeddings": (ValidRequest("POST", "/v1/embeddings", EMBEDDING),),
    "responses": (
        ValidRequest("POST", "/v1/responses", RESPONSE),
        ValidRequest("POST", "/v1/responses/input_tokens", RESPONSE),
    ),
    "messages": (
        ValidRequest("POST", "/v1/messages", MESSAGE),
        ValidRequest("POST", "/v1/messages/count_tokens", COUNT),
    ),
    "models": (
        ValidRequest("GET", "/v1/models"),
        ValidRequest("GET", "/v1/models/quick"),
        ValidRequest("GET", "/v1/models?provider=plugin_provider"),
    ),
    "tasks": (
        ValidRequest("POST", "/api/v1/execute", TASK, works=True),
        ValidRequest("POST", "/api/v1/execute/stream", TASK, works=True),
    ),
    "task list": (
        ValidRequest("GET", "/api/v1/tasks?limit=5&status=completed&cursor="),
        ValidRequest("GET", "/api/v1/tasks/task-1"),
        ValidRequest("POST", "/api/v1/tasks/task-1/cancel", {}),
        ValidRequest("DELETE", "/api/v1/tasks/task-2"),
    ),
    "sandbox": (
        ValidRequest("POST", "/api/v1/sandbox/run", RUN, works=True),
        ValidRequest("POST", "/api/v1/sandbox/run/stream", RUN, works=True),
        ValidRequest("GET", "/api/v1/sandbox/languages?wait=false"),
    ),
    "piston": (
        ValidRequest("POST", "/api/v2/execute", PISTON, works=True),
        ValidRequest("POST", "/api/v2/packages", {"language": "python", "version": "3"}),
        ValidRequest("GET", "/api/v2/runtimes"),
    ),
    "accounts": (
        ValidRequest("POST", "/api/v1/auth/login", {"username": "nobody", "password": "none"}),
        ValidRequest("POST", "/api/v1/auth/refresh", {"refresh_token": "rt-1"}),
        ValidRequest(
            "POST",
            "/api/v1/auth/keys",
            {"name": "a", "scopes": ["chat"], "expires_at": "2030-01-01T00:00:00Z"},
        ),
        ValidRequest("GET", "/api/v1/auth/keys"),
        ValidRequest("DELETE", "/api/v1/auth/keys/key-1"),
        ValidRequest("GET", "/api/v1/auth/status"),
    ),
    "system": (
        ValidRequest("GET", "/health"),
        ValidRequest("GET", "/health/comprehensive"),
        ValidRequest("GET", "/metrics"),
        ValidRequest("GET", "/api/v1/capabilities"),
        ValidRequest("GET", "/api/v1/providers"),
        ValidRequest("GET", "/api/docs/static/docs.js"),
        ValidRequest("GET", "/api/docs/openapi.json"),
    ),
}
"""Valid requests by dialect or subject."""
