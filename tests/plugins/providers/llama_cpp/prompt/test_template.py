"""Chat templates: the model's own, in Jinja's sandbox, with ChatML as fallback."""

import pytest

from appliance.domain.messages import Message, MessageRole
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.template import ChatTemplate

_HELLO = [Message(MessageRole.USER, "hello")]
_WITH_SYSTEM = [Message(MessageRole.SYSTEM, "be brief"), *_HELLO]


def _template(source: str | None) -> ChatTemplate:
    return ChatTemplate(source, bos="<s>", eos="</s>")


@pytest.mark.parametrize("source", [None, "", "{% broken", "{{ unclosed"])
def test_template_when_absent_or_broken_then_chatml_with_its_stop(source: str | None):
    template = _template(source)
    assert template.render(_WITH_SYSTEM) == (
        "<|im_start|>system\nbe brief<|im_end|>\n"
        "<|im_start|>user\nhello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert template.stops == ("<|im_end|>",)
    assert "ChatML" in template.note


def test_template_when_model_has_one_then_used_with_its_tokens():
    source = "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{{ m.content }}{% endfor %}"
    template = _template(source)
    assert template.render(_WITH_SYSTEM) == "<s>[system]be brief[user]hello"
    assert template.stops == ()


def test_template_when_it_takes_no_system_message_then_merged_into_the_first_user_message():
    source = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for m in messages %}{{ m.content }}{% endfor %}"
    )
    assert _template(source).render(_WITH_SYSTEM) == "be brief\n\nhello"


def test_template_when_it_refuses_a_message_then_says_why():
    source = (
        "{% for m in messages %}{{ m.content }}{% if 'hello' in m.content %}"
        "{{ raise_exception('no greetings') }}{% endif %}{% endfor %}"
    )
    with pytest.raises(TemplateError, match="no greetings"):
        _template(source).render(_HELLO)


def test_template_when_it_refuses_every_message_then_refused_with_its_reason():
    with pytest.raises(TemplateError, match="roles must alternate"):
        _template("{{ raise_exception('roles must alternate') }}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.nothing.at.all }}",
        "{{ 1 / 0 }}",
        "{{ messages[7].content }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}{% endfor %}",
        "{{ 'x'.format_map }}{{ missing() }}",
    ],
)
def test_template_when_it_fails_or_reaches_out_then_refused(source: str):
    with pytest.raises(TemplateError):
        _template(source)


def test_template_when_it_uses_common_extensions_then_they_work():
    source = (
        "{%- for m in messages -%}{% generation %}{{ m | tojson }}{% endgeneration %}"
        "{% if loop.index > 99 %}{% break %}{% endif %}{% endfor %}{{ strftime_now('%%') }}"
    )
    assert _template(source).render(_HELLO) == '{"role": "user", "content": "hello"}%'
