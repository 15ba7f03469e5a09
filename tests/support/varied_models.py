"""Varied requests of models, over every dialect."""

from typing import Any

from tests.support.fake_upstream import as_events
from tests.support.varied_recorder import (
    CHAT,
    FUNCTION,
    HI,
    OTHER,
    PARAMETERS,
    TOOL,
    USED,
    Recorder,
    next_second,
    varied_answers,
)


async def call_models(recorder: Recorder) -> None:
    """Chats, completions, responses, messages, embeddings; each streamed as well."""
    call = recorder.call
    recorder.upstream.on(CHAT, *varied_answers())
    plain_text = {"index": 0, "text": "x", "finish_reason": "stop"}
    used: Any = {"choices": [], "usage": USED}
    recorder.upstream.on(
        "/v1/completions", as_events({"choices": [plain_text]}, used, last=b"data: [DONE]\n\n")
    )
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    chat: list[dict[str, Any]] = [
        {"model": "up/m", "logprobs": True, "top_logprobs": 2},
        {"model": "up/m"},
        {"model": "up/m", "functions": [FUNCTION]},
        {"model": "up/m", "functions": [FUNCTION, FUNCTION | {"name": "g"}]},
        {"model": "up/m", "tools": [TOOL, OTHER]},
        {"model": "up/m"},
        {"model": "up/n", "service_tier": "default"},
        {"model": "up/m"},
        {"model": "up/m"},
        {"model": "up/m"},
        {"model": "tiny", "max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": 1},
        {"model": "tiny", "max_tokens": 4, "temperature": 0, "n": 2, "service_tier": "flex"},
        {"model": "tiny", "max_tokens": 60, "response_format": schema, "seed": 1},
        {"model": "tiny", "max_tokens": 20, "stop": ["a", "e", " "]},
    ]
    await call("POST /v1/chat/completions", {"messages": HI, "model": "tiny", "max_tokens": 2})
    await next_second()
    for body in chat:
        for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
            await call("POST /v1/chat/completions", {"messages": HI} | body | more)
    plain: list[dict[str, Any]] = [
        {"model": "up/m", "prompt": "a"},
        {"model": "tiny", "prompt": ["a", "b"], "max_tokens": 5, "echo": True},
        {"model": "tiny", "prompt": "a", "suffix": "b", "max_tokens": 5, "logprobs": 2, "n": 2},
        {"model": "tiny", "prompt": "a", "max_tokens": 3, "service_tier": "default"},
        {"model": "tiny", "prompt": "a", "max_tokens": 3, "service_tier": "flex"},
    ]
    await call("POST /v1/completions", {"model": "tiny", "prompt": "b", "max_tokens": 2})
    await next_second()
    for body in plain:
        for more in ({}, {"stream": True, "stream_options": {"include_usage": True}}):
            await call("POST /v1/completions", body | more)
    await _call_responses(recorder)
    await _call_messages(recorder)
    for texts in ("abc", ["abc", "de"]):
        for more in ({}, {"encoding_format": "base64", "dimensions": 8}):
            for model in ("vectors", "others"):
                await call("POST /v1/embeddings", {"model": model, "input": texts} | more)


async def _call_responses(recorder: Recorder) -> None:
    recorder.upstream.on(CHAT, *varied_answers())
    tool = {"type": "function", "strict": True} | FUNCTION
    other = tool | {"name": "g", "strict": False, "parameters": {"type": "object"}}
    bodies: list[dict[str, Any]] = [
        {"model": "up/m", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
        {"model": "up/n", "instructions": "Be nice."},
        {"model": "up/n", "tools": [tool, other], "tool_choice": "required", "temperature": 0.5},
        {"model": "up/m", "tools": [tool, other], "parallel_tool_calls": False, "top_p": 0.5},
        {"model": "up/m", "tools": [tool, other]},
        {"model": "tiny", "max_output_tokens": 16, "instructions": "Be brief.", "top_logprobs": 2,
         "include": ["message.output_text.logprobs"], "metadata": {"a": "b"}},
        {"model": "tiny", "max_output_tokens": 17, "service_tier": "flex", "user": "u",
         "safety_identifier": "s", "prompt_cache_key": "k", "max_tool_calls": 2},
        {"model": "tiny", "max_output_tokens": 18, "reasoning": {"effort": "high",
         "summary": "auto"}, "text": {"format": {"type": "text"}, "verbosity": "high"}},
        {"model": "up/m", "text": {"format": {"type": "json_object"}, "verbosity": "low"},
         "reasoning": {"effort": "low"}, "truncation": "auto"},
        {"model": "up/m", "text": {"format": {"type": "json_schema", "name": "x", "schema": {},
         "strict": False}}},
        {"model": "up/m", "text": {"format": {"type": "json_schema", "name": "y", "strict": True,
         "schema": PARAMETERS}}},
        {"model": "up/m"},
        {"model": "up/m"},
    ]  # fmt: skip
    for body in bodies:
        for more in ({}, {"stream": True}):
            await recorder.call("POST /v1/responses", {"input": "hi"} | body | more)
    await next_second()
    for more in ({}, {"stream": True}):
        await recorder.call("POST /v1/responses", {"input": "hi", "model": "up/m"} | more)
    for text in ("a", "a longer text"):
        body = {"model": "tiny", "input": text}
        await recorder.call("POST /v1/responses/input_tokens", body)


async def _call_messages(recorder: Recorder) -> None:
    recorder.upstream.on(CHAT, *varied_answers())
    tool = {"name": "f", "input_schema": PARAMETERS}
    bodies: list[dict[str, Any]] = [
        {"model": "up/m"},
        {"model": "up/n"},
        {"model": "up/n", "tools": [tool]},
        {"model": "up/m", "tools": [tool, {"name": "g", "input_schema": PARAMETERS}]},
        {"model": "up/m", "tools": [tool, {"name": "g", "input_schema": PARAMETERS}]},
        {"model": "up/m"},
        {"model": "up/m", "stop_sequences": ["END"]},
        {"model": "tiny", "max_tokens": 4},
        {"model": "tiny", "max_tokens": 4},
        {"model": "tiny", "max_tokens": 30, "stop_sequences": ["a", "e", " "]},
        {"model": "up/m"},
        {"model": "up/m"},
        {"model": "up/m"},
    ]
    for body in bodies:
        for more in ({}, {"stream": True}):
            await recorder.call(
                "POST /v1/messages", {"messages": HI, "max_tokens": 9} | body | more
            )
    for text in ("a", "a longer text"):
        body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
        await recorder.call("POST /v1/messages/count_tokens", body)
