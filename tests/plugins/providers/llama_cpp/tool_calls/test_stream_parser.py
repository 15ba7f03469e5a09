"""Tool calls in streamed completions: real formats, cut into chunks at every place."""

import json
import random

import pytest

from appliance.domain.messages import Tool, ToolCall
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.tool_calls.stream_parser import ParsedPart, ToolCallParser

_TOOLS = (Tool("get_weather"), Tool("add"))
_HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
_SECOND = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": [2]}}</tool_call>'
_WEATHER, _ADD = ("get_weather", {"city": "Köln"}), ("add", {"a": 1, "b": [2]})


def _read(
    form: ToolCallFormat, pieces: list[str], *, parallel: bool = True, truncated: bool = False
) -> tuple[str, list[tuple[str, object]], list[ParsedPart]]:
    reader = ToolCallParser(form, _TOOLS, parallel=parallel)
    found = [piece for text in pieces for piece in reader.feed(text)]
    found += reader.finish(truncated=truncated)
    text = "".join(piece for piece in found if isinstance(piece, str))
    calls = [(c.name, json.loads(c.arguments)) for c in found if isinstance(c, ToolCall)]
    return text, calls, found


_REAL: list[tuple[ToolCallFormat, str, str, list[tuple[str, object]]]] = [
    (ToolCallFormat.HERMES, _HERMES, "", [_WEATHER]),
    (
        ToolCallFormat.HERMES,
        f"Let me look.\n{_HERMES}\n{_SECOND}\n",
        "Let me look.",
        [_WEATHER, _ADD],
    ),
    (ToolCallFormat.HERMES, "no call at all", "no call at all", []),
    (ToolCallFormat.HERMES, "a <tool_calls b", "a <tool_calls b", []),
    (
        ToolCallFormat.HERMES,
        '<tool_call>{"name": "add", "arguments": {"a": "</tool_call>"}}</tool_call>',
        "",
        [("add", {"a": "</tool_call>"})],
    ),
    (
        ToolCallFormat.HERMES,
        '<tool_call>{"name": "add", "arguments": "{\\"a\\": 2}"}</tool_call>',
        "",
        [("add", {"a": 2})],
    ),
    (
        ToolCallFormat.MISTRAL,
        '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1, "b": [2]}}, '
        '{"name": "get_weather", "arguments": {"city": "Köln"}, "id": "abcdefghi"}]',
        "",
        [_ADD, _WEATHER],
    ),
    (ToolCallFormat.MISTRAL, '[TOOL_CALLS]get_weather[ARGS]{"city": "Köln"}', "", [_WEATHER]),
    (
        ToolCallFormat.MISTRAL,
        'So:[TOOL_CALLS]get_weather[ARGS]{"city": "Köln"}[TOOL_CALLS]add[ARGS]{"a": 1, "b": [2]}',
        "So:",
        [_WEATHER, _ADD],
    ),
    (
        ToolCallFormat.LLAMA,
        '{"name": "get_weather", "parameters": {"city": "Köln"}}',
        "",
        [_WEATHER],
    ),
    (
        ToolCallFormat.LLAMA,
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Köln"}}; '
        '{"name": "add", "parameters": {"a": 1, "b": [2]}}',
        "",
        [_WEATHER, _ADD],
    ),
    (
        ToolCallFormat.LLAMA,
        '{"type": "function", "name": "add", "parameters": {"a": 1, "b": [2]}}',
        "",
        [_ADD],
    ),
    (
        ToolCallFormat.LLAMA,
        '{"type": "function", "function": {"name": "add", "parameters": {"a": 1, "b": [2]}}}',
        "",
        [_ADD],
    ),
    (ToolCallFormat.LLAMA, '{"city": "Köln"}', '{"city": "Köln"}', []),
    (ToolCallFormat.LLAMA, "{ no JSON", "{ no JSON", []),
    (ToolCallFormat.LLAMA, 'Here: {"name": "x"}', 'Here: {"name": "x"}', []),
]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), _REAL)
def test_calls_when_answer_comes_in_any_pieces_then_same_text_and_calls(
    form: ToolCallFormat, answer: str, text: str, calls: list[tuple[str, object]]
):
    drawn = random.Random(3)
    for size in [1, 2, 3, 7, len(answer)]:
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        assert _read(form, pieces)[:2] == (text, calls)
    for _ in range(50):
        cuts = sorted(drawn.choices(range(len(answer) + 1), k=drawn.randrange(6)))
        ends = zip([0, *cuts], [*cuts, len(answer)], strict=True)
        assert _read(form, [answer[a:b] for a, b in ends])[:2] == (text, calls)


def test_calls_when_text_comes_first_then_it_streams_and_no_tag_is_shown():
    reader = ToolCallParser(ToolCallFormat.HERMES, _TOOLS, parallel=True)
    assert reader.feed("Hello wor") == ["Hello wor"]
    assert reader.feed("ld\n<tool") == ["ld"]
    assert reader.feed("_call>") == []
    assert reader.feed('{"name": "add", "arg') == []


def test_calls_when_tag_only_begins_then_shown_after_all():
    reader = ToolCallParser(ToolCallFormat.HERMES, _TOOLS, parallel=True)
    assert reader.feed("a <too") == ["a"]
    assert reader.feed("l b") == [" <tool b"]


@pytest.mark.parametrize(
    "answer",
    [
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        "<tool_call>not JSON</tool_call> more",
        '<tool_call>{"name": "add", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": 7}</tool_call>',
        "<tool_call>" + "[" * 5000,
    ],
)
def test_calls_when_it_is_none_then_text_as_the_model_wrote_it(answer: str):
    text, calls, _ = _read(ToolCallFormat.HERMES, [answer])
    assert (text, calls) == (answer, [])


@pytest.mark.parametrize(("form", "answer", "text", "calls"), _REAL)
def test_calls_when_only_one_is_wanted_then_the_first(
    form: ToolCallFormat, answer: str, text: str, calls: list[tuple[str, object]]
):
    assert _read(form, [answer], parallel=False)[:2] == (text, calls[:1])


def test_calls_when_end_tag_is_missing_then_still_a_call():
    answer = _HERMES.removesuffix("\n</tool_call>")
    assert _read(ToolCallFormat.HERMES, [answer])[:2] == ("", [_WEATHER])


def test_calls_when_answer_is_cut_within_a_call_then_half_of_it_is_not_shown():
    assert _read(ToolCallFormat.HERMES, ["So:\n" + _HERMES[:40]], truncated=True)[:2] == ("So:", [])


def test_calls_when_made_then_each_has_an_id_of_its_own():
    _, _, found = _read(ToolCallFormat.HERMES, [_HERMES, _HERMES])
    ids = {piece.id for piece in found if isinstance(piece, ToolCall)}
    assert len(ids) == 2
    assert all(each.startswith("call_") for each in ids)
