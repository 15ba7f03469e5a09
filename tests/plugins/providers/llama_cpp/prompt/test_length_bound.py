"""The bound is never above the length of the rendered chat, and near it for many short turns."""

import contextlib
import random
from collections.abc import Sequence

import pytest

from appliance.domain.messages import Message, MessageRole, ToolCall
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.length_bound import LengthBound
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from tests.support.chat_templates import TEMPLATES

_ROLES = (MessageRole.SYSTEM, MessageRole.USER, MessageRole.ASSISTANT)


@pytest.mark.parametrize("source", TEMPLATES.values(), ids=TEMPLATES.keys())
def test_bound_when_chats_vary_then_never_above_the_length(source: str):
    """With a token for each character."""
    template = ChatTemplate(source, bos="<s>", eos="</s>")

    def count(messages: Sequence[Message]) -> int:
        return len(template.render(messages))

    bound = LengthBound(count, template.facts, longest_token=1)
    rng = random.Random(7)
    for _ in range(60):
        turns = (_turn(rng, at) for at in range(rng.randint(1, 12)))
        chat = [message for turn in turns for message in turn]
        chat.append(Message(MessageRole.USER, "x"))
        with contextlib.suppress(TemplateError):  # a call before the first question
            assert bound.at_least(chat) <= count(chat)
    long = [Message(_ROLES[1 + at % 2], "x") for at in range(101)]
    assert bound.at_least(long) > 0.7 * count(long)


def _turn(rng: random.Random, at: int) -> list[Message]:
    """A message, with the result if it is a call."""
    role, text = rng.choice(_ROLES), rng.choice(["", "a", "two words", "line\nline"])
    if role is MessageRole.ASSISTANT and rng.random() < 0.2:
        call = ToolCall(f"call{at}", "f", "{}")
        return [Message(role, text, (call,)), Message(MessageRole.TOOL, "b", tool_call_id=call.id)]
    return [Message(role, text)]
