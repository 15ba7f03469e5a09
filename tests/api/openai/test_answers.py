"""Answers and stream chunks of the OpenAI dialect."""

import json
from typing import Any

import msgspec
import pytest

from appliance.api.openai.answers import (
    AnswerHeader,
    begin_answer,
    chat_answer,
    plain_answer,
    select_most_likely,
    sum_usage,
    system_fingerprint,
)
from appliance.api.openai.stream_chunks import ChatChunks, PlainChunks
from appliance.api.openai.stream_merge import CollectedCompletion
from appliance.domain.completions import CompletionReport
from appliance.domain.messages import (
    Finished,
    FinishReason,
    Likelihood,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)

HEAD = AnswerHeader("chatcmpl-1", 7, "starter", "fp_1")


def likelihood(text: str, logprob: float) -> TokenLikelihood:
    token = Likelihood(text, logprob, text.encode())
    return TokenLikelihood(token, (token, Likelihood("?", float("-inf"), b"?")))


def collected(
    text: str = "Hi",
    reason: FinishReason = FinishReason.STOP,
    logprob: float = -0.5,
    calls: tuple[ToolCall, ...] = (),
) -> CollectedCompletion:
    usage = TokenUsage(10, 2, 8, reasoning_tokens=1)
    return CollectedCompletion(
        text, [likelihood("Hi", logprob)], list(calls), Finished(reason, usage)
    )


def encoded(answer: Any) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(answer))


def test_chat_answer_when_encoded_then_the_shape_of_openai() -> None:
    answer = encoded(chat_answer(HEAD, [collected()], logprobs=True, legacy=False))
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    assert answer == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "starter",
        "system_fingerprint": "fp_1",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "finish_reason": "stop",
                "logprobs": {
                    "content": [
                        token
                        | {
                            "top_logprobs": [
                                token,
                                {"token": "?", "logprob": -9999.0, "bytes": [63]},
                            ]
                        }
                    ],
                    "refusal": None,
                },
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 2,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 8},
            "completion_tokens_details": {"reasoning_tokens": 1},
        },
    }


@pytest.mark.parametrize("legacy", [False, True])
def test_chat_answer_when_a_tool_is_asked_for_then_as_the_client_knows_it(legacy: bool) -> None:
    call = ToolCall("call_1", "weather", '{"city": "Bern"}')
    done = collected("", FinishReason.TOOL_CALLS, calls=(call,))
    (choice,) = encoded(chat_answer(HEAD, [done], logprobs=False, legacy=legacy))["choices"]
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    message = choice["message"]
    assert message["content"] is None
    if legacy:
        assert (message["function_call"], choice["finish_reason"]) == (function, "function_call")
        assert "tool_calls" not in message
    else:
        assert message["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
        assert choice["finish_reason"] == "tool_calls"


def test_plain_answer_when_best_of_then_the_most_likely_of_each_prompt() -> None:
    groups = [
        [collected("a", logprob=-3), collected("b", logprob=-1)],
        [collected("c", logprob=-1), collected("d", logprob=-2)],
    ]
    answer = plain_answer(HEAD, groups, 1, logprobs=True, echoes=["1", "2"])
    assert [(choice.index, choice.text) for choice in answer.choices] == [(0, "1b"), (1, "2c")]
    encoded_answer = encoded(answer)
    assert encoded_answer["object"] == "text_completion"
    assert encoded_answer["choices"][0]["logprobs"] == {
        "tokens": ["Hi"],
        "token_logprobs": [-1.0],
        "top_logprobs": [{"Hi": -1.0, "?": -9999.0}],
        "text_offset": [0],
    }
    assert encoded_answer["usage"]["prompt_tokens"] == 20
    assert encoded_answer["usage"]["completion_tokens"] == 8


def test_most_likely_when_there_are_no_logprobs_then_still_some() -> None:
    silent = CollectedCompletion("x", [], [], Finished(FinishReason.STOP, TokenUsage()))
    assert select_most_likely([silent, collected()], 1)[0].text == "Hi"


def test_usage_when_choices_share_a_prompt_then_it_counts_once() -> None:
    used = [TokenUsage(10, 1, 4), TokenUsage(10, 2, 10), TokenUsage(5, 3, 0), TokenUsage(5, 4, 5)]
    assert sum_usage(used, 2) == TokenUsage(15, 10, 4)
    assert sum_usage(used[:2], 2) == TokenUsage(10, 3, 4)


def test_fingerprint_when_the_model_differs_then_it_does() -> None:
    first = system_fingerprint("llama_cpp", "starter")
    assert first == system_fingerprint("llama_cpp", "starter")
    assert first != system_fingerprint("llama_cpp", "other")
    report = CompletionReport("llama_cpp", "starter")
    assert begin_answer("chatcmpl", None).header(report).fingerprint == first


def chunk(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    return json.loads(data[6:])


HARD = 'a"b\\c\n\u2028\u00e9\U0001f412\x00'


@pytest.mark.parametrize("with_usage", [False, True])
def test_chat_chunks_when_written_then_the_shape_of_openai(with_usage: bool) -> None:
    chunks = ChatChunks(HEAD, with_usage=with_usage, logprobs=True, legacy=False)
    first, piece = chunk(chunks.begin(0)), chunk(chunks.event(3, TextDelta(HARD)))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert piece["object"] == "chat.completion.chunk"
    assert (piece["id"], piece["created"], piece["model"]) == ("chatcmpl-1", 7, "starter")
    assert piece["choices"] == [
        {
            "index": 3,
            "delta": {"content": HARD},
            "logprobs": {"content": [], "refusal": None},
            "finish_reason": None,
        }
    ]
    assert ("usage" in piece) is with_usage
    assert piece.get("usage") is None
    last = chunk(chunks.event(3, Finished(FinishReason.LENGTH, TokenUsage())))
    assert last["choices"][0]["delta"] == {}
    assert last["choices"][0]["finish_reason"] == "length"
    used = chunk(chunks.usage(TokenUsage(1, 2, 0)))
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 3


def test_chat_chunks_when_tools_are_called_then_each_has_its_index() -> None:
    chunks = ChatChunks(HEAD, with_usage=False, logprobs=False, legacy=False)
    calls = [
        chunk(chunks.event(choice, ToolCall(f"c{at}", "f", "{}")))["choices"][0]["delta"]
        for at, choice in enumerate([0, 0, 1])
    ]
    assert [call["tool_calls"][0]["index"] for call in calls] == [0, 1, 0]
    assert calls[1]["tool_calls"][0] == {
        "index": 1,
        "id": "c1",
        "type": "function",
        "function": {"name": "f", "arguments": "{}"},
    }


def test_chat_chunks_when_the_client_is_old_then_function_call() -> None:
    chunks = ChatChunks(HEAD, with_usage=False, logprobs=False, legacy=True)
    delta = chunk(chunks.event(0, ToolCall("c", "f", "{}")))["choices"][0]["delta"]
    assert delta == {"function_call": {"name": "f", "arguments": "{}"}}
    last = chunk(chunks.event(0, Finished(FinishReason.TOOL_CALLS, TokenUsage())))
    assert last["choices"][0]["finish_reason"] == "function_call"


def test_plain_chunks_when_written_then_offsets_go_on() -> None:
    chunks = PlainChunks(
        AnswerHeader("cmpl-1", 7, "m", "fp", "flex"), ["", "say: "], with_usage=False, logprobs=True
    )
    assert chunks.begin(0) == b""
    assert chunk(chunks.begin(1))["choices"][0]["text"] == "say: "
    pieces = [
        chunk(chunks.event(0, TextDelta(text, (likelihood(text, -1),))))["choices"][0]
        for text in ("ab", "c")
    ]
    assert [piece["logprobs"]["text_offset"] for piece in pieces] == [[0], [2]]
    last = chunk(chunks.event(0, Finished(FinishReason.STOP, TokenUsage())))
    assert last["object"] == "text_completion"
    assert last["service_tier"] == "flex"
    assert last["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}]
