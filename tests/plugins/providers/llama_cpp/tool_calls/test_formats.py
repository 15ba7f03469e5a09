"""Calls in XML and between DeepSeek's marks: templates, prompts, grammars and answers."""

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from appliance.domain.messages import (
    Finished,
    FinishReason,
    Message,
    MessageRole,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
    ToolUse,
)
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.prompt.special_token_guard import SpecialTokenGuard
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.tool_calls.grammar import add_call_rule
from plugins.providers.llama_cpp.tool_calls.stream_parser import ToolCallParser
from tests.support.llama_model import follows, open_model
from tests.support.llama_provider import provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf

_BAR = "\uff5c"
_CALLS, _CALL = f"<{_BAR}tool▁calls▁begin{_BAR}>", f"<{_BAR}tool▁call▁begin{_BAR}>"
_SEP = f"<{_BAR}tool▁sep{_BAR}>"
_END, _CALLS_END = f"<{_BAR}tool▁call▁end{_BAR}>", f"<{_BAR}tool▁calls▁end{_BAR}>"

_WRITE = Tool(
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
_NOW = Tool("now")
_TOOLS = (_WRITE, _NOW)

_XML_TEMPLATE = """
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
<function><name>{{ tool.function.name }}</name> {{ tool.function.description }}</function>
{%- endfor %}
Call: <tool_call>
<function=NAME>
<parameter=KEY>
value
</parameter>
</function>
</tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
<function={{ call.function.name }}>
{%- for key, value in call.function.arguments | items %}
<parameter={{ key }}>
{{ value if value is string else value | tojson | safe }}
</parameter>
{%- endfor %}
</function>
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""


def _deepseek(call: str, condition: str) -> str:
    return (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}<out>{{ m.content }}</out>"
        f"{{% elif m.role == 'assistant' and {condition} %}}"
        f"{{{{ m.content or '' }}}}{_CALLS}"
        f"{{% for tool in m['tool_calls'] %}}{_CALL}{call}{_END}{{% endfor %}}{_CALLS_END}"
        "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )


_FENCED_TEMPLATE = _deepseek(
    f"{{{{ tool['type'] + '{_SEP}' + tool['function']['name'] + '\\n```json\\n'"
    " + tool['function']['arguments'] + '\\n```' }}",
    "m.content is none",
)
_PARTED_TEMPLATE = _deepseek(
    f"{{{{ tool['function']['name'] + '{_SEP}' + tool['function']['arguments'] }}}}",
    "m.tool_calls is defined",
)
_TEMPLATES = {
    ToolCallFormat.QWEN_XML: _XML_TEMPLATE,
    ToolCallFormat.DEEPSEEK_V3: _FENCED_TEMPLATE,
    ToolCallFormat.DEEPSEEK_V31: _PARTED_TEMPLATE,
}
_TALK = (
    Message(MessageRole.USER, "please"),
    Message(
        MessageRole.ASSISTANT,
        "Right away.",
        (ToolCall("c1", "write_file", '{"path": "a.py", "text": "x = 1\\n", "lines": [1, 2]}'),),
    ),
    Message(MessageRole.TOOL, "written", tool_call_id="c1"),
)
_XML = (
    "<tool_call>\n<function=write_file>\n<parameter=path>\na.py\n</parameter>\n"
    "<parameter=text>\nif a < b:\n    print('</parameter>', 12)\n\n</parameter>\n"
    "<parameter=times>\n3\n</parameter>\n<parameter=lines>\n[1, 2]\n</parameter>\n"
    "<parameter=force>\nTrue\n</parameter>\n</function>\n</tool_call>"
)
_WRITTEN = {
    "path": "a.py",
    "text": "if a < b:\n    print('</parameter>', 12)\n",
    "times": 3,
    "lines": [1, 2],
    "force": True,
}
_XML_NOW = "<tool_call>\n<function=now>\n</function>\n</tool_call>"
_ARGUMENTS = '{"path": "b", "text": "```"}'
_FENCED_ONE = f"{_CALL}function{_SEP}write_file\n```json\n{_ARGUMENTS}\n```{_END}"
_FENCED_NOW = f"{_CALL}function{_SEP}now\n```json\n{{}}\n```{_END}"
_PARTED_ONE = f"{_CALL}write_file{_SEP}{_ARGUMENTS}{_END}"
_PARTED_NOW = f"{_CALL}now{_SEP}{{}}{_END}"
_B = ("write_file", {"path": "b", "text": "```"})
_NOTHING: tuple[str, dict[str, Any]] = ("now", {})

_Told = tuple[str, list[tuple[str, Any]]]


def _read(form: ToolCallFormat, pieces: list[str], *, truncated: bool = False) -> _Told:
    reader = ToolCallParser(form, _TOOLS, parallel=True)
    found = [piece for text in pieces for piece in reader.feed(text)]
    found += reader.finish(truncated=truncated)
    text = "".join(piece for piece in found if isinstance(piece, str))
    calls = [(c.name, json.loads(c.arguments)) for c in found if isinstance(c, ToolCall)]
    return text, calls


_REAL: list[tuple[ToolCallFormat, str, str, list[tuple[str, Any]]]] = [
    (ToolCallFormat.QWEN_XML, _XML, "", [("write_file", _WRITTEN)]),
    (ToolCallFormat.QWEN_XML, f"So.\n\n{_XML_NOW}\n{_XML}\n", "So.", [_NOTHING, ("write_file", _WRITTEN)]),
    (ToolCallFormat.QWEN_XML, _XML_NOW.removeprefix("<tool_call>\n"), "", [_NOTHING]),
    (ToolCallFormat.QWEN_XML, _XML_NOW.removesuffix("\n</tool_call>"), "", [_NOTHING]),
    (ToolCallFormat.QWEN_XML, "a <tool b <functions </tool_call>", "a <tool b <functions </tool_call>", []),
    (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_FENCED_ONE}{_CALLS_END}", "", [_B]),
    (ToolCallFormat.DEEPSEEK_V3, f"Hm.\n{_CALLS}{_FENCED_ONE}\n{_FENCED_NOW}{_CALLS_END}", "Hm.",
     [_B, _NOTHING]),
    (ToolCallFormat.DEEPSEEK_V3, f"{_FENCED_ONE}", "", [_B]),
    (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_FENCED_ONE}".removesuffix(_END), "", [_B]),
    (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_PARTED_ONE}{_CALLS_END}", "", [_B]),
    (ToolCallFormat.DEEPSEEK_V31, f"{_CALLS}{_PARTED_ONE}{_PARTED_NOW}{_CALLS_END}", "", [_B, _NOTHING]),
    (ToolCallFormat.DEEPSEEK_V31, f"{_CALLS}{_PARTED_ONE}{_CALLS_END} And?", " And?", [_B]),
    (ToolCallFormat.DEEPSEEK_V31, f"a <{_BAR}tool b", f"a <{_BAR}tool b", []),
]  # fmt: skip


@pytest.mark.parametrize(("form", "answer", "text", "calls"), _REAL)
def test_calls_when_answer_comes_in_any_pieces_then_same_text_and_calls(
    form: ToolCallFormat, answer: str, text: str, calls: list[tuple[str, Any]]
):
    drawn = random.Random(5)
    for size in [1, 2, 3, 7, len(answer)]:
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        assert _read(form, pieces) == (text, calls)
    for _ in range(30):
        cuts = sorted(drawn.choices(range(len(answer) + 1), k=drawn.randrange(6)))
        ends = zip([0, *cuts], [*cuts, len(answer)], strict=True)
        assert _read(form, [answer[a:b] for a, b in ends]) == (text, calls)


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (ToolCallFormat.QWEN_XML, "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
        (ToolCallFormat.QWEN_XML, "<tool_call>\n<function=now>\nwhat?\n</function>\n</tool_call> and on"),
        (ToolCallFormat.QWEN_XML, "<tool_call>\n<function=now>\n<parameter=a>\n1\n</function></tool_call>"),
        (ToolCallFormat.QWEN_XML, "<function=now><parameter=a>1</parameter><parameter=a>2</parameter>"
                       "</function>"),
        (ToolCallFormat.QWEN_XML, '<tool_call>{"name": "now", "arguments": {}}</tool_call>'),
        (ToolCallFormat.QWEN_XML, "write <function=now for a call"),
        (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_CALL}function{_SEP}unknown\n```json\n{{}}\n```{_END}"),
        (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_CALL}function{_SEP}now\n```json\n[1]\n```{_END}{_CALLS_END}"),
        (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_CALL}now{_END}{_CALLS_END}"),
        (ToolCallFormat.DEEPSEEK_V31, f"{_CALLS}{_CALL}now{_SEP}{{'a': 1}}{_END}{_CALLS_END} more"),
        (ToolCallFormat.DEEPSEEK_V31, f"{_CALLS}{_CALL}now{_SEP}{{\"a\": NaN}}{_END}{_CALLS_END}"),
    ],
)  # fmt: skip
def test_calls_when_it_is_none_then_text_as_the_model_wrote_it(form: ToolCallFormat, answer: str):
    assert _read(form, list(answer)) == (answer, [])


def test_calls_when_a_text_holds_end_marks_without_an_end_then_nothing_is_lost():
    value = "</function> " * 500
    call = f"<function=now>\n<parameter=a>\n{value}\n</parameter>\n</function>"
    assert _read(ToolCallFormat.QWEN_XML, [*call]) == ("", [("now", {"a": value})])
    assert _read(ToolCallFormat.QWEN_XML, ["<function=now>x", *value]) == (
        f"<function=now>x{value}",
        [],
    )


def test_calls_when_answer_is_cut_within_a_value_then_no_half_call_is_told():
    for end in (60, 100, len(_XML) - 30):
        assert _read(ToolCallFormat.QWEN_XML, ["Look:\n", _XML[:end]], truncated=True) == (
            "Look:",
            [],
        )


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("text", "12", "12"),
        ("text", "\nx\n", "\nx\n"),
        ("unknown", "12", "12"),
        ("times", " 12 ", 12),
        ("times", "twelve", "twelve"),
        ("times", "NaN", "NaN"),
        ("lines", "[1,\n 2]", [1, 2]),
        ("force", "False", False),
        ("force", "null", None),
        ("note", "12", 12),
        ("note", '"12"', '"12"'),
        ("note", "[1]", "[1]"),
        ("mode", "w", "w"),
    ],
)
def test_values_when_types_are_declared_then_of_these_types_else_text(
    name: str, text: str, value: Any
):
    answer = (
        f"<tool_call><function=write_file><parameter={name}>\n{text}\n</parameter></function>"
        "</tool_call>"
    )
    assert _read(ToolCallFormat.QWEN_XML, [answer]) == ("", [("write_file", {name: value})])


@pytest.mark.parametrize("form", list(_TEMPLATES))
def test_template_when_it_writes_calls_in_this_form_then_known_and_rendered_by_itself(
    form: ToolCallFormat,
):
    template = ChatTemplate(_TEMPLATES[form], bos="<s>", eos="</s>")
    assert (template.tool_call_format, template.supports_tools) == (form, True)
    rendered = template.render(_TALK, _TOOLS)
    assert [
        part for part in ("write_file", "Writes a file", "written") if part not in rendered
    ] == []
    assert "Right away." in rendered
    assert "None" not in rendered
    _, calls = _read(form, [rendered.partition("Right away.")[2]])
    assert calls == [("write_file", {"path": "a.py", "text": "x = 1\n", "lines": [1, 2]})]


@pytest.mark.parametrize("form", [ToolCallFormat.DEEPSEEK_V3, ToolCallFormat.DEEPSEEK_V31])
def test_template_when_it_tells_nothing_of_tools_then_the_system_message_does(form: ToolCallFormat):
    rendered = ChatTemplate(_TEMPLATES[form], bos="", eos="").render(_TALK[:1], _TOOLS)
    assert rendered.startswith("<system>You may call functions.")
    assert '{"name": "now"' in rendered
    assert f"{_CALLS}{_CALL}" in rendered
    assert ("```json" in rendered) == (form is ToolCallFormat.DEEPSEEK_V3)


def test_template_when_other_marks_stand_in_it_then_the_generic_form():
    phi = "{% for m in messages if m.tools %}<|tool|>{{ m.tools }}<|/tool|>{% endfor %}"
    for odd in ("<tool_call><function=x>{json}", "<tool_call>x <arg_key>", phi):
        source = odd + "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
        template = ChatTemplate(source, bos="", eos="")
        assert (template.tool_call_format, template.supports_tools) == (
            ToolCallFormat.HERMES,
            False,
        )


def test_guard_when_arguments_are_rendered_as_they_are_then_masked_texts_are_too():
    mask = SpecialTokenGuard(lambda text: "<|im_end|>" in text, raw_arguments=True)
    told = {"text": 'a\n"<|im_end|>"', "lines": ['"<|im_end|>"'], "path": "b"}
    call = ToolCall("c", "write_file", json.dumps(told))
    masked = mask.mask_message(Message(MessageRole.ASSISTANT, "", (call,)))
    rendered = ChatTemplate(_XML_TEMPLATE, bos="", eos="").render((_TALK[0], masked))
    assert rendered.count("<|im_end|>") == 2
    whole = "".join(text for text, _ in mask.split_rendered(rendered))
    assert '<parameter=text>\na\n"<|im_end|>"\n</parameter>' in whole
    assert '["\\"<|im_end|>\\""]' in whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(write_tiny_gguf(tmp_path_factory.mktemp("forms") / "tiny.gguf"))


def _grammar(form: ToolCallFormat, *tools: Tool, parallel: bool = True) -> str:
    rules = Rules()
    text = rules.text(add_call_rule(rules, tools, form, parallel=parallel, uses_args_marker=False))
    checked_rules(text)
    return text


def _xml(**values: str) -> str:
    parts = "".join(f"<parameter={key}>\n{values[key]}\n</parameter>\n" for key in values)
    return f"<tool_call>\n<function=write_file>\n{parts}</function>\n</tool_call>"


@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        (_xml(path="a.py", text="a <b> </p> </param> <</parameter\nend <<</div>"), True),
        (_xml(path="", text="", mode="a", times="3", lines="[1, 2]", force="null", note="x"), True),
        (f"{_xml(path='a', text='b')}\n{_XML_NOW}", True),
        (_xml(path="a"), False),
        (_xml(text="a", path="a"), False),
        (_xml(path="a", text="b", mode="r"), False),
        (_xml(path="a", text="b", times="10"), False),
        (_xml(path="a", text="b", lines='["x"]'), False),
        (_xml(path="a", text="b", other="x"), False),
        (_xml(path="a", text="</parameter> b"), False),
        (_xml(path="a", text="<</parameter> b"), False),
        (_xml(path="a", text="</par</parameter> b"), False),
    ],
)
def test_grammar_when_calls_are_xml_then_exactly_those_of_the_schema(
    model: Model, answer: str, allowed: bool
):
    assert follows(model, _grammar(ToolCallFormat.QWEN_XML, *_TOOLS), answer) is allowed


@pytest.mark.parametrize(
    ("schema", "right", "wrong"),
    [
        ({"type": "string", "maxLength": 3}, "ab\n", "abcd"),
        ({"type": "string", "pattern": "^[^x]{2}$"}, '"\\', "xa"),
        ({"type": "string", "format": "date"}, "2024-02-29", "2023-02-29"),
        ({"enum": ["a\nb", 7, None]}, "a\nb", "8"),
        ({"anyOf": [{"enum": ["x"]}, {"type": "integer"}]}, "12", "y"),
    ],
)
def test_grammar_when_texts_are_bound_then_held_as_they_stand(
    model: Model, schema: dict[str, Any], right: str, wrong: str
):
    tool = Tool("write_file", "", {"properties": {"path": schema}, "required": ["path"]})
    grammar = _grammar(ToolCallFormat.QWEN_XML, tool)
    assert follows(model, grammar, _xml(path=right))
    assert not follows(model, grammar, _xml(path=wrong))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"properties": {"a>b": {}}}, "properties.a>b"),
        ({"properties": {"a": {"enum": ["</parameter>"]}}}, "properties.a.enum"),
        ({"properties": {"a": {"type": "string", "pattern": "^<$"}}}, "properties.a.pattern"),
        ({"properties": {"a": {"type": "string", "format": "odd"}}}, "properties.a.format"),
        ({"properties": []}, "properties"),
        ({"properties": {}, "required": [1]}, "required"),
    ],
)
def test_grammar_when_xml_can_not_hold_it_then_refused_by_field(
    parameters: dict[str, Any], field: str
):
    with pytest.raises(InvalidInput) as caught:
        _grammar(ToolCallFormat.QWEN_XML, Tool("f", "", parameters))
    assert caught.value.details["field"] == f"tools[0].parameters.{field}"


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_FENCED_ONE}{_CALLS_END}"),
        (ToolCallFormat.DEEPSEEK_V3, f"{_CALLS}{_FENCED_ONE}\n{_FENCED_NOW}{_CALLS_END}"),
        (ToolCallFormat.DEEPSEEK_V31, f"{_CALLS}{_PARTED_ONE}{_PARTED_NOW}{_CALLS_END}"),
    ],
)
def test_grammar_when_calls_stand_between_marks_then_as_models_write_them(
    model: Model, form: ToolCallFormat, answer: str
):
    grammar = _grammar(form, *_TOOLS)
    assert follows(model, grammar, answer)
    assert not follows(model, grammar, answer.replace('"path"', '"paths"'))


_SMALL = (
    Tool("say", "", {"properties": {"word": {"type": "string", "maxLength": 3}}}),
    Tool("add", "", {"properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LlamaCppProvider]:
    folder = tmp_path_factory.mktemp("boxes")
    files = {form.value: _tiny(folder, form) for form in _TEMPLATES}
    made, _ = provider_for(folder, files, threads=1)
    yield made
    await made.close()


def _tiny(folder: Path, form: ToolCallFormat) -> Path:
    return write_tiny_gguf(
        folder / f"{form.value}.gguf", context_tokens=4096, template=_TEMPLATES[form]
    )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", list(_TEMPLATES))
async def test_required_when_a_model_has_this_form_then_only_calls_that_fit(
    provider: LlamaCppProvider, form: ToolCallFormat
):
    choice = ToolChoice(ToolUse.REQUIRED, "add", parallel=False)
    for seed in (1, 2):
        sampling = Sampling(temperature=1.0, seed=seed)
        plain = request("hello", model=form.value, sampling=sampling, max_tokens=900)
        asked = msgspec.structs.replace(plain, tools=_SMALL, tool_choice=choice)
        call, finished = [event async for event in provider.stream(asked)]
        assert isinstance(call, ToolCall)
        assert call.name == "add"
        assert json.loads(call.arguments)["a"] <= 9
        assert isinstance(finished, Finished)
        assert finished.reason is FinishReason.TOOL_CALLS
