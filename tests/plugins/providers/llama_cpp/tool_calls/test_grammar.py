"""The grammars of tool calls: what they allow, and what they reject."""

from typing import Any

import pytest

from appliance.domain.messages import Tool
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat as Format
from plugins.providers.llama_cpp.tool_calls.grammar import add_call_rule
from tests.support.llama_model import matches_grammar, open_model
from tests.support.tiny_gguf import write_tiny_gguf
from tests.support.tool_call_examples import (
    CALLS_BEGIN,
    CALLS_END,
    DEEPSEEK_V3_CALL,
    DEEPSEEK_V3_NOW,
    DEEPSEEK_V31_CALL,
    DEEPSEEK_V31_NOW,
    TOOLS,
    XML_NOW,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(write_tiny_gguf(tmp_path_factory.mktemp("forms") / "tiny.gguf"))


def _grammar(form: Format, *tools: Tool, parallel: bool = True) -> str:
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
        (f"{_xml(path='a', text='b')}\n{XML_NOW}", True),
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
    assert matches_grammar(model, _grammar(Format.QWEN_XML, *TOOLS), answer) is allowed


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
def test_grammar_when_strings_are_restricted_then_enforced_unquoted(
    model: Model, schema: dict[str, Any], right: str, wrong: str
):
    tool = Tool("write_file", "", {"properties": {"path": schema}, "required": ["path"]})
    grammar = _grammar(Format.QWEN_XML, tool)
    assert matches_grammar(model, grammar, _xml(path=right))
    assert not matches_grammar(model, grammar, _xml(path=wrong))


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
def test_grammar_when_xml_can_not_express_it_then_rejected_by_field(
    parameters: dict[str, Any], field: str
):
    with pytest.raises(InvalidInput) as caught:
        _grammar(Format.QWEN_XML, Tool("f", "", parameters))
    assert caught.value.details["field"] == f"tools[0].parameters.{field}"


@pytest.mark.parametrize(
    ("form", "answer"),
    [
        (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{DEEPSEEK_V3_CALL}{CALLS_END}"),
        (Format.DEEPSEEK_V3, f"{CALLS_BEGIN}{DEEPSEEK_V3_CALL}\n{DEEPSEEK_V3_NOW}{CALLS_END}"),
        (Format.DEEPSEEK_V31, f"{CALLS_BEGIN}{DEEPSEEK_V31_CALL}{DEEPSEEK_V31_NOW}{CALLS_END}"),
    ],
)
def test_grammar_when_calls_have_deepseek_markers_then_as_models_write_them(
    model: Model, form: Format, answer: str
):
    grammar = _grammar(form, *TOOLS)
    assert matches_grammar(model, grammar, answer)
    assert not matches_grammar(model, grammar, answer.replace('"path"', '"paths"'))
