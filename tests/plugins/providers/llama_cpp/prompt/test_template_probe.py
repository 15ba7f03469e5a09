"""What a template takes is probed once, and every chat is rendered without losing a text."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt import template_probe
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    TemplateError,
    TemplateLimitExceeded,
    render_template,
)
from plugins.providers.llama_cpp.prompt.renderer import LocalRenderer
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.prompt.template_facts import SystemPlacement, TemplateFacts
from tests.support.chat_templates import (
    CHATML,
    DEEPSEEK,
    GEMMA,
    LLAMA,
    MISTRAL,
    PARTS,
    SILENT,
    STRICT,
    TEMPLATES,
)

_TOOL = Tool("look_up", "Looks it up")


def _template(source: str) -> ChatTemplate:
    template = ChatTemplate(source, bos="<s>", eos="</s>")
    assert template.note == ""
    return template


def _system(text: str) -> Message:
    return Message(MessageRole.SYSTEM, text)


def _user(text: str) -> Message:
    return Message(MessageRole.USER, text)


def _assistant(text: str, *ids: str) -> Message:
    calls = tuple(ToolCall(each, "look_up", f'{{"about": "value of {each}"}}') for each in ids)
    return Message(MessageRole.ASSISTANT, text, calls)


def _result(call_id: str) -> Message:
    return Message(MessageRole.TOOL, f"result of {call_id}", tool_call_id=call_id)


_CHATS = {
    "a question": [_user("apple")],
    "F13 two user turns in a row": [_user("apple"), _user("banana"), _user("cherry")],
    "F13 the assistant first": [_assistant("apple"), _user("banana")],
    "F13 two answers in a row": [_user("apple"), _assistant("banana"), _assistant("cherry")],
    "F13 a system message": [_system("orchid"), _user("apple")],
    "two system messages": [_system("orchid"), _system("apple"), _user("banana")],
    "F13 a system message in the middle": [
        _system("orchid"),
        _user("apple"),
        _assistant("banana"),
        _system("cherry"),
        _user("damson"),
    ],
    "a system message at the end": [_user("apple"), _assistant("banana"), _system("cherry")],
    "a system message alone": [_system("orchid")],
    "a system message, then the assistant": [_system("orchid"), _assistant("apple")],
    "F13 a result, then user text": [
        _system("orchid"),
        _user("apple"),
        _assistant("", "first"),
        _result("first"),
        _user("banana"),
    ],
    "a loop of calls with text": [
        _system("orchid"),
        _user("apple"),
        _assistant("banana", "first"),
        _result("first"),
        _assistant("cherry", "second", "third"),
        _result("second"),
        _result("third"),
        _assistant("damson"),
        _user("elder"),
    ],
    "a loop that goes on": [
        _system("orchid"),
        _user("apple"),
        _assistant("banana", "first"),
        _result("first"),
    ],
    "a call without a result": [_user("apple"), _assistant("", "first"), _user("banana")],
    "an answer at the end": [_system("orchid"), _user("apple"), _assistant("banana")],
    "an empty answer": [_user("apple"), _assistant(""), _user("banana")],
    "an empty question": [_user("apple"), _assistant("banana"), _user("")],
}


def _expected(messages: Iterable[Message]) -> list[str]:
    """The texts in the order of the chat; a call's before its result."""
    found: list[str] = []
    for message in messages:
        found += [message.content] if message.content else []
        found += [f"value of {call.id}" for call in message.tool_calls]
    return found


@pytest.mark.parametrize("with_tools", [False, True], ids=["no tools", "tools"])
@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("chat", _CHATS.values(), ids=_CHATS)
def test_chat_when_its_order_is_unusual_then_rendered_with_every_text_once(
    chat: list[Message], source: str, *, with_tools: bool
):
    rendered = _template(source).render(chat, [_TOOL] if with_tools else [])
    words = [re.escape(text) for text in _expected(chat)]
    assert [word for word in words if len(re.findall(rf"\b{word}\b", rendered)) != 1] == []
    assert ("Looks it up" in rendered) == with_tools


@pytest.mark.parametrize(
    ("source", "facts"),
    [
        (CHATML, {}),
        (PARTS, {"parts_roles": frozenset(MessageRole) - {MessageRole.TOOL}}),
        (SILENT, {"system": SystemPlacement.NOWHERE}),
        (
            GEMMA,
            {
                "system": SystemPlacement.NOWHERE,
                "repeated_users": False,
                "repeated_assistants": False,
                "assistant_first": False,
            },
        ),
        (
            STRICT,
            {
                "system": SystemPlacement.NOWHERE,
                "repeated_users": False,
                "repeated_assistants": False,
                "assistant_first": False,
                "assistant_last": False,
                "neutral_text": "...",
            },
        ),
        (
            MISTRAL,
            {
                "system": SystemPlacement.FIRST,
                "system_needs_last_user": True,
                "repeated_users": False,
                "repeated_assistants": False,
                "assistant_first": False,
                "tools": True,
                "text_with_calls": False,
                "user_after_tool": False,
            },
        ),
        (
            LLAMA,
            {
                "assistant_first": False,
                "tools": True,
                "text_with_calls": False,
                "parallel_calls": False,
            },
        ),
        (
            DEEPSEEK,
            {
                "system": SystemPlacement.FIRST,
                "tools": True,
                "lists_tools": False,
                "arguments_as_text": True,
                "null_content": True,
                "text_with_calls": False,
            },
        ),
    ],
    ids=["chatml", "parts", "silent", "gemma", "strict", "mistral", "llama", "deepseek"],
)
def test_template_when_probed_then_its_facts_are_known(source: str, facts: Mapping[str, Any]):
    assert _template(source).facts == TemplateFacts(**facts)


def test_turns_when_merged_then_joined_by_a_blank_line_behind_the_system_text():
    chat = [
        _system("be brief"),
        _user("apple"),
        _user("banana"),
        _assistant("cherry"),
        _assistant("damson"),
    ]
    assert _template(GEMMA).render([*chat, _user("elder")]) == (
        "<s><start>user\nbe brief\n\napple\n\nbanana<end>\n<start>model\ncherry\n\ndamson<end>\n"
        "<start>user\nelder<end>\n<start>model\n"
    )


def test_turn_when_one_is_missing_then_an_empty_one_is_inserted():
    assert _template(GEMMA).render([_assistant("apple"), _user("banana")]) == (
        "<s><start>user\n<end>\n<start>model\napple<end>\n<start>user\nbanana<end>\n<start>model\n"
    )


def test_turn_when_the_template_refuses_empty_ones_then_a_neutral_text_is_inserted():
    chat = [_assistant("apple"), _user(" ")]
    assert _template(STRICT).render(chat) == "[user]...[assistant]apple[user]..."


def test_user_text_when_it_follows_a_result_then_a_turn_of_the_assistant_is_inserted():
    chat = [_user("apple"), _assistant("", "call_first"), _result("call_first"), _user("banana")]
    rendered = _template(MISTRAL).render(chat, [_TOOL])
    assert re.search(
        r'\[TOOL_RESULTS\]\{"content": "result of call_first", "call_id": "\w{9}"\}', rendered
    )
    assert '"}</s>[AVAILABLE_TOOLS]' in rendered
    assert rendered.endswith("[INST]banana[/INST]")


def test_system_text_when_the_template_shows_it_in_the_last_user_turn_only_then_in_the_first():
    loop = [_system("be brief"), _user("apple"), _assistant("", "first"), _result("first")]
    template = _template(MISTRAL)
    assert "[INST]be brief\n\napple[/INST]" in template.render(loop, [_TOOL])
    again = template.render([*loop, _assistant("banana"), _user("cherry")], [_TOOL])
    assert again.endswith("[INST]be brief\n\ncherry[/INST]")


def test_reasoning_when_the_template_drops_it_from_earlier_answers_then_that_is_no_fault():
    chat = [_user("apple"), _assistant("<think>hm</think>banana"), _user("cherry")]
    assert "hm" not in _template(DEEPSEEK).render(chat)


def test_content_when_only_parts_are_read_then_given_as_one_part():
    """F14: the text was lost without an error."""
    rendered = _template(PARTS).render([_system("orchid"), _user("apple")])
    assert (
        rendered
        == "<|im_start|>system:orchid<|im_end|>\n<|im_start|>user:apple<|im_end|>\nAssistant:"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for m in messages %}[{{ m.role }}]{% endfor %}", "loses texts of users"),
        ("{{ messages[-1].content }}", "loses texts of a chat with an earlier answer"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
            "loses texts of a chat with an earlier answer",
        ),
        ("{% for m in messages %}{{ m.content.body.text }}{% endfor %}", "has no attribute 'body'"),
        (CHATML + "{{ raise_exception('not today') }}", "not today"),
        (
            "{% set ns = namespace(last='') %}{% for m in messages %}{% if m.content != ns.last %}"
            "{{ m.content if m.role != 'assistant' or loop.index < 6 }}{% endif %}{% endfor %}",
            "loses texts in a chat of: system system user",
        ),
    ],
)
def test_template_when_it_loses_a_text_in_every_form_then_refused_with_the_reason(
    source: str, reason: str
):
    """F14"""
    with pytest.raises(TemplateError, match=reason):
        _template(source)


def test_template_when_it_wants_a_list_of_tools_then_given_an_empty_one():
    source = "{% for t in tools %}{{ t }}{% endfor %}" + CHATML
    assert _template(source).facts == TemplateFacts(needs_tool_list=True)
    assert "apple" in _template(source).render([_user("apple")])


def test_calls_when_the_template_shows_them_only_with_tools_then_as_text_without():
    source = (
        "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}"
        "{% for m in messages %}{{ m.content }}"
        "{% if tools %}{{ m.tool_calls | tojson if m.tool_calls }}{% endif %}{% endfor %}"
    )
    template = _template(source)
    assert (template.facts.tools, template.facts.calls_without_tools) == (True, False)
    chat = [_user("apple"), _assistant("", "first"), _result("first")]
    assert "value of first" in template.render(chat)
    assert template.render(chat, [_TOOL]).count("value of first") == 1


class _Counting(LocalRenderer):
    def __init__(self) -> None:
        self.rendered = 0

    def render(self, source: str, variables: dict[str, Any]) -> str:
        self.rendered += 1
        return render_template(source, variables)


def test_template_when_it_is_probed_then_with_few_chats_and_never_again():
    for source in TEMPLATES.values():
        counting = _Counting()
        template = ChatTemplate(source, bos="", eos="", renderer=counting)
        assert counting.rendered < 80
        before = counting.rendered
        template.render([_user("apple"), _user("banana")])
        assert counting.rendered == before + 1


def test_template_when_probing_takes_too_long_then_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(template_probe, "_TIMEOUT_S", -1.0)
    with pytest.raises(TemplateLimitExceeded, match="for a few short chats"):
        _template(CHATML)
