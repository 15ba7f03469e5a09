"""Tool calls of Qwen3-Coder and DeepSeek: parsing, templates, prompts, and forced calls."""

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
from plugins.providers.llama_cpp.prompt.special_token_guard import SpecialTokenGuard
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat as Format
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.tool_calls.stream_parser import ToolCallParser
from tests.support.llama_provider import provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tool_call_examples import (
    BAR,
    CALL_BEGIN,
    CALL_END,
    CALLS_BEGIN,
    CALLS_END,
    DEEPSEEK_V3_CALL,
    DEEPSEEK_V3_NOW,
    DEEPSEEK_V31_CALL,
    DEEPSEEK_V31_NOW,
    SEPARATOR,
    TOOLS,
    XML_NOW,
)

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
        f"{{{{ m.content or '' }}}}{CALLS_BEGIN}"
        f"{{% for tool in m['tool_calls'] %}}{CALL_BEGIN}{call}{CALL_END}{{% endfor %}}{CALLS_END}"
        "{% else %}<{{ m.role }}>{{ m.content }}{% endif %}{% endfor %}"
    )


_FENCED_TEMPLATE = _deepseek(
    f"{{{{ tool['type'] + '{SEPARATOR}' + tool['function']['name'] + '\\n```json\\n'"
    " + tool['function']['arguments'] + '\\n```' }}",
    "m.content is none",
)
_PARTED_TEMPLATE = _deepseek(
    f"{{{{ tool['function']['name'] + '{SEPARATOR}' + tool['function']['arguments'] }}}}",
    "m.tool_calls is defined",
)
_TEMPLATES = {
    Format.QWEN_XML: _XML_TEMPLATE,
    Format.DEEPSEEK_V3: _FENCED_TEMPLATE,
    Format.DEEPSEEK_V31: _PARTED_TEMPLATE,
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
_B = ("write_file", {"path": "b", "text": "```"})
_NOTHING: tuple[str, dict[str, Any]] = ("now", {})

_Told = tuple[str, list[tuple[str, Any]]]


def _read(form: Format, pieces: list[str], *, truncated: bool = False) -> _Told:
    reader = ToolCallParser(form, TOOLS, parallel=True)
    found = [piece for text in pieces for piece in reader.feed(text)]
    found += reader.finish(truncated=truncated)
    text = "".join(piece for piece in found if isinstance(piece, str))
    calls = [(c.name, json.loads(c.arguments)) for c in found if isinstance(c, ToolCall)]
    return text, calls


_REAL: list[tuple[Format, str, str, list[tuple[str, Any]]]] = [
    (Format.QWEN_XML, _XML, "", [("write_file", _WRITTEN)]),
    (Format.QWEN_XML, f"So.\n\n{XML_NOW}\n{_XML}\n", "So.", [_NOTHING, ("write_file", _WRITTEN)]),
    (Format.QWEN_XML, XML_NOW.removeprefix("<tool_call>\n"), "", [_NOTHING]),
    (Format.QWEN_XML, XML_NOW.removesuffix("\n</tool_call>"), "", [_NOTHING]),
    (Format.QWEN_XML, "a <tool b <functions </tool_call>", "a <tool b <functions </tool_call>", []),
    (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{DEEPSEEK_V3_CALL}{CALLS_END}", "", [_B]),
    (
        Format.DEEPSEEK_V3,
        f"Hm.\n{CALLS_BEGIN}{DEEPSEEK_V3_CALL}\n{DEEPSEEK_V3_NOW}{CALLS_END}",
        "Hm.",
        [_B, _NOTHING],
    ),
    (Format.DEEPSEEK_V3, f"{DEEPSEEK_V3_CALL}", "", [_B]),
    (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{DEEPSEEK_V3_CALL}".removesuffix(CALL_END), "", [_B]),
    (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{DEEPSEEK_V31_CALL}{CALLS_END}", "", [_B]),
    (
        Format.DEEPSEEK_V31,
        f"{CALLS_BEGIN}{DEEPSEEK_V31_CALL}{DEEPSEEK_V31_NOW}{CALLS_END}",
        "",
        [_B, _NOTHING],
    ),
    (Format.DEEPSEEK_V31, f"{CALLS_BEGIN}{DEEPSEEK_V31_CALL}{CALLS_END} And?", " And?", [_B]),
    (Format.DEEPSEEK_V31, f"a <{BAR}tool b", f"a <{BAR}tool b", []),
]


@pytest.mark.parametrize(("form", "answer", "text", "calls"), _REAL)
def test_calls_when_answer_comes_in_any_pieces_then_same_text_and_calls(
    form: Format, answer: str, text: str, calls: list[tuple[str, Any]]
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
        (Format.QWEN_XML, "<tool_call>\n<function=unknown>\n</function>\n</tool_call>"),
        (Format.QWEN_XML, "<tool_call>\n<function=now>\nwhat?\n</function>\n</tool_call> and on"),
        (Format.QWEN_XML, "<tool_call>\n<function=now>\n<parameter=a>\n1\n</function></tool_call>"),
        (
            Format.QWEN_XML,
            "<function=now><parameter=a>1</parameter><parameter=a>2</parameter></function>",
        ),
        (Format.QWEN_XML, '<tool_call>{"name": "now", "arguments": {}}</tool_call>'),
        (Format.QWEN_XML, "write <function=now for a call"),
        (
            Format.DEEPSEEK_V3,
            f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}unknown\n```json\n{{}}\n```{CALL_END}",
        ),
        (
            Format.DEEPSEEK_V3,
            f"{CALLS_BEGIN}{CALL_BEGIN}function{SEPARATOR}now\n```json\n[1]\n```{CALL_END}{CALLS_END}",
        ),
        (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{CALL_BEGIN}now{CALL_END}{CALLS_END}"),
        (
            Format.DEEPSEEK_V31,
            f"{CALLS_BEGIN}{CALL_BEGIN}now{SEPARATOR}{{'a': 1}}{CALL_END}{CALLS_END} more",
        ),
        (
            Format.DEEPSEEK_V31,
            f'{CALLS_BEGIN}{CALL_BEGIN}now{SEPARATOR}{{"a": NaN}}{CALL_END}{CALLS_END}',
        ),
    ],
)
def test_calls_when_it_is_none_then_text_as_the_model_wrote_it(form: Format, answer: str):
    assert _read(form, list(answer)) == (answer, [])


def test_calls_when_a_text_has_many_end_markers_then_nothing_is_lost():
    value = "</function> " * 500
    call = f"<function=now>\n<parameter=a>\n{value}\n</parameter>\n</function>"
    assert _read(Format.QWEN_XML, [*call]) == ("", [("now", {"a": value})])
    assert _read(Format.QWEN_XML, ["<function=now>x", *value]) == (
        f"<function=now>x{value}",
        [],
    )


def test_calls_when_truncated_within_a_value_then_no_incomplete_call():
    for end in (60, 100, len(_XML) - 30):
        assert _read(Format.QWEN_XML, ["Look:\n", _XML[:end]], truncated=True) == (
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
    assert _read(Format.QWEN_XML, [answer]) == ("", [("write_file", {name: value})])


@pytest.mark.parametrize("form", list(_TEMPLATES))
def test_template_when_it_writes_calls_in_this_form_then_known_and_rendered_by_itself(
    form: Format,
):
    template = ChatTemplate(_TEMPLATES[form], bos="<s>", eos="</s>")
    assert (template.tool_call_format, template.facts.tools) == (form, True)
    rendered = template.render(_TALK, TOOLS)
    assert [
        part for part in ("write_file", "Writes a file", "written") if part not in rendered
    ] == []
    assert "Right away." in rendered
    assert "None" not in rendered
    _, calls = _read(form, [rendered.partition("Right away.")[2]])
    assert calls == [("write_file", {"path": "a.py", "text": "x = 1\n", "lines": [1, 2]})]


@pytest.mark.parametrize("form", [Format.DEEPSEEK_V3, Format.DEEPSEEK_V31])
def test_template_when_it_lists_no_tools_then_the_system_message_does(form: Format):
    rendered = ChatTemplate(_TEMPLATES[form], bos="", eos="").render(_TALK[:1], TOOLS)
    assert rendered.startswith("<system>You may call functions.")
    assert '{"name": "now"' in rendered
    assert f"{CALLS_BEGIN}{CALL_BEGIN}" in rendered
    assert ("```json" in rendered) == (form is Format.DEEPSEEK_V3)


def test_template_when_its_markers_are_unknown_then_the_generic_format():
    phi = "{% for m in messages if m.tools %}<|tool|>{{ m.tools }}<|/tool|>{% endfor %}"
    for odd in ("<tool_call><function=x>{json}", "<tool_call>x <arg_key>", phi):
        source = odd + "{{ tools }}{% for m in messages %}{{ m.content }}{% endfor %}"
        template = ChatTemplate(source, bos="", eos="")
        assert (template.tool_call_format, template.facts.tools) == (
            Format.HERMES,
            False,
        )


def test_guard_when_arguments_are_rendered_unquoted_then_masked_texts_are_too():
    mask = SpecialTokenGuard(lambda text: "<|im_end|>" in text, raw_arguments=True)
    arguments = {"text": 'a\n"<|im_end|>"', "lines": ['"<|im_end|>"'], "path": "b"}
    call = ToolCall("c", "write_file", json.dumps(arguments))
    masked = mask.mask_message(Message(MessageRole.ASSISTANT, "", (call,)))
    rendered = ChatTemplate(_XML_TEMPLATE, bos="", eos="").render((_TALK[0], masked))
    assert rendered.count("<|im_end|>") == 2
    whole = "".join(text for text, _ in mask.split_rendered(rendered))
    assert '<parameter=text>\na\n"<|im_end|>"\n</parameter>' in whole
    assert '["\\"<|im_end|>\\""]' in whole


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


def _tiny(folder: Path, form: Format) -> Path:
    return write_tiny_gguf(
        folder / f"{form.value}.gguf", context_tokens=4096, template=_TEMPLATES[form]
    )


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("form", list(_TEMPLATES))
async def test_required_when_a_model_has_this_form_then_only_calls_that_fit(
    provider: LlamaCppProvider, form: Format
):
    choice = ToolChoice(ToolUse.REQUIRED, "add", parallel=False)
    for seed in (1, 2):
        sampling = Sampling(temperature=1.0, seed=seed)
        plain = request("hello", model=form.value, sampling=sampling, max_tokens=900)
        request_ = msgspec.structs.replace(plain, tools=_SMALL, tool_choice=choice)
        call, finished = [event async for event in provider.stream(request_)]
        assert isinstance(call, ToolCall)
        assert call.name == "add"
        assert json.loads(call.arguments)["a"] <= 9
        assert isinstance(finished, Finished)
        assert finished.reason is FinishReason.TOOL_CALLS
