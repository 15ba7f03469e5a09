"""Tools in prompts: real kinds of chat templates, and the generic format."""

import json

import pytest

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat

_TAGGED = """
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer with <tool_call></tool_call><|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"""
_LISTED = """{{ bos_token }}
{%- for message in messages %}
{%- if message.role == 'user' %}
{%- if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
[INST] {{ message.content }}[/INST]
{%- elif message.tool_calls is defined %}[TOOL_CALLS] [
{%- for call in message.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine characters') }}{% endif %}
{{- {'name': call.function.name, 'arguments': call.function.arguments, 'id': call.id} | tojson }}
{%- endfor %}]{{ eos_token }}
{%- elif message.role == 'tool' %}
[TOOL_RESULTS] {{ {'content': message.content, 'call_id': message.tool_call_id} | tojson }}
[/TOOL_RESULTS]
{%- else %}{{ message.content }}{% endif %}
{%- endfor %}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}"""
_BARE = """
{%- for message in messages %}<|start|>{{ message.role }}
{%- if loop.first and tools %}{{ tools | tojson(indent=4) }} <|python_tag|>{% endif %}
{%- if message.tool_calls is defined %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message.tool_calls[0].function %}
{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}{{ message.content }}{% endif %}<|eot|>
{%- endfor %}"""
_PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
_NO_RESULTS = (
    "{{ tools | tojson }}<tool_call>"
    "{% for m in messages %}{{ m.content if m.role != 'tool' }}{% endfor %}"
)
_XML = "{% if tools %}<tool_call><function=x>{% endif %}" + _PLAIN
_WEATHER = Tool("get_weather", "Tells the weather", {"type": "object", "properties": {"c": {}}})
_CALLS = (
    ToolCall("call_1234567890", "get_weather", '{"city": "Köln"}'),
    ToolCall("call_0987654321", "get_weather", '{"city": "Rom"}'),
)
_TALK = (
    Message(MessageRole.USER, "Köln and Rom?"),
    Message(MessageRole.ASSISTANT, "", _CALLS),
    Message(MessageRole.TOOL, "12 degrees", tool_call_id=_CALLS[0].id),
    Message(MessageRole.TOOL, "22 degrees", tool_call_id=_CALLS[1].id),
)


def _template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


@pytest.mark.parametrize(
    ("source", "form", "knows"),
    [
        (_TAGGED, ToolCallFormat.HERMES, True),
        (_LISTED, ToolCallFormat.MISTRAL, True),
        (_BARE, ToolCallFormat.LLAMA, True),
        (_PLAIN, ToolCallFormat.HERMES, False),
        (_NO_RESULTS, ToolCallFormat.HERMES, False),
        (_XML, ToolCallFormat.HERMES, False),
        (None, ToolCallFormat.HERMES, False),
    ],
)
def test_template_when_read_then_known_whether_and_how_it_takes_tools(
    source: str | None, form: ToolCallFormat, knows: bool
):
    template = _template(source)
    assert (template.tool_call_format, template.facts.tools) == (form, knows)


@pytest.mark.parametrize("source", [_TAGGED, _LISTED, _BARE, _PLAIN, None])
def test_template_when_tools_are_used_then_each_part_is_in_the_prompt(source: str | None):
    rendered = _template(source).render(_TALK, [_WEATHER])
    parts = ("get_weather", "Tells the weather", "Köln and Rom?", "12 degrees", "22 degrees")
    assert [part for part in parts if part not in rendered] == []
    places = [rendered.index(part) for part in ('"Köln"', '"Rom"')]
    assert places == sorted(places)


def test_template_when_arguments_are_text_then_rendered_as_a_value():
    rendered = _template(_TAGGED).render(_TALK, [_WEATHER])
    assert '"arguments": {"city": "Köln"}' in rendered


def test_template_when_ids_must_be_short_then_calls_and_results_still_match():
    rendered = _template(_LISTED).render(_TALK, [_WEATHER])
    listed = json.loads(rendered.split("[TOOL_CALLS] ")[1].split("</s>")[0].replace("}{", "},{"))
    assert [len(call["id"]) for call in listed] == [9, 9]
    assert f'"call_id": "{listed[1]["id"]}"' in rendered


def test_template_when_it_takes_one_call_a_turn_then_each_is_followed_by_its_result():
    rendered = _template(_BARE).render(_TALK, [_WEATHER])
    order = [rendered.index(part) for part in ('Köln"}', "12 degrees", 'Rom"}', "22 degrees")]
    assert order == sorted(order)


def test_generic_format_when_template_knows_no_tools_then_plain_words():
    system = Message(MessageRole.SYSTEM, "Be brief.")
    rendered = _template(_PLAIN).render((system, *_TALK), [_WEATHER])
    head, _, rest = rendered.partition("[user]")
    assert head.startswith("[system]Be brief.\n\nYou may call functions.")
    assert '{"name": "get_weather", "description": "Tells the weather", "parameters":' in head
    assert rest == (
        "Köln and Rom?"
        '[assistant]<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n'
        "</tool_call>\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rom"}}\n</tool_call>'
        "[user]<tool_response>\n12 degrees\n</tool_response>\n"
        "<tool_response>\n22 degrees\n</tool_response>"
    )


def test_generic_format_when_there_is_no_system_message_then_one_is_made():
    rendered = _template(_PLAIN).render(_TALK[:1], [_WEATHER])
    assert rendered.startswith("[system]You may call functions.")


@pytest.mark.parametrize("arguments", ["", "not JSON", "[1]", "[" * 5000])
def test_template_when_arguments_are_no_object_then_still_rendered(arguments: str):
    message = Message(MessageRole.ASSISTANT, "", (ToolCall("c", "get_weather", arguments),))
    for source in (_TAGGED, _PLAIN):
        assert "get_weather" in _template(source).render((_TALK[0], message))
