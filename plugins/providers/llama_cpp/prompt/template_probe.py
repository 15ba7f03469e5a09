"""Finds out what a chat template takes, by rendering short chats whose texts can't be mistaken.

A template may refuse a chat, or render it without some of its texts. Each fact is one or a few
chats that the template either shows completely or not. In the end, chats of unusual order are
normalized with the facts found and rendered: a template that still loses a text is refused.
"""

import json
import time
from collections.abc import Callable, Sequence
from enum import Enum, auto
from itertools import product

from msgspec.structs import replace

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    TemplateError,
    TemplateLimitExceeded,
)
from plugins.providers.llama_cpp.prompt.message_normalizer import normalize_messages
from plugins.providers.llama_cpp.prompt.template_facts import SystemPlacement, TemplateFacts
from plugins.providers.llama_cpp.prompt.tools import FORMATS_WITH_INSTRUCTIONS
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat

Render = Callable[[Sequence[Message], Sequence[Tool], TemplateFacts], str]

_TIMEOUT_S = 20.0
_NEUTRAL_TEXTS = ("", "...")
_TOOL = Tool("probename", "probedescription")
_UNUSUAL_CHATS = (
    "system",
    "assistant",
    "system assistant",
    "system system user user assistant assistant system user system",
    "user system assistant user assistant",
)
_UNUSUAL_CHATS_WITH_TOOLS = (
    "system user calls result result assistant user",
    "system user text+call result assistant user text+call result",
    "assistant user call result user assistant system user",
    "user call result call result assistant assistant user",
)


class Outcome(Enum):
    """SHOWN: the prompt has every text of the chat. REFUSED: the template raised an error."""

    SHOWN = auto()
    LOST = auto()
    REFUSED = auto()


class TemplateProbe:
    """Probes one template; `render` renders a chat as it is."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._ends_at = time.monotonic() + _TIMEOUT_S
        self._error = ""

    def find_facts(self, tool_call_format: ToolCallFormat | None) -> TemplateFacts:
        """`tool_call_format` is None for a template without a known one.

        Raises TemplateError if the template loses the texts of users or of assistants, and
        TemplateLimitExceeded.
        """
        facts = self._find_neutral_text(self._find_order(self._find_system(self._find_forms())))
        for chat in _UNUSUAL_CHATS:
            if self._outcome(chat, facts, normalize=True) is Outcome.LOST:
                raise TemplateError(_lost_message(f"in a chat of: {chat}"))
        return self._find_tools(facts, tool_call_format) if tool_call_format else facts

    def _find_forms(self) -> TemplateFacts:
        """How the template reads the content of users and assistants."""
        facts = self._find_form(TemplateFacts(), MessageRole.USER, "user")
        if facts is None:
            listed = TemplateFacts(needs_tool_list=True)
            facts = self._find_form(listed, MessageRole.USER, "user")
        if facts is None:
            raise TemplateError(self._error or _lost_message("of users"))
        found = self._find_form(facts, MessageRole.ASSISTANT, "user assistant user")
        if found is None:
            raise TemplateError(self._error or _lost_message("of a chat with an earlier answer"))
        return found

    def _find_form(
        self, facts: TemplateFacts, role: MessageRole, *chats: str
    ) -> TemplateFacts | None:
        """The facts with the first form of this role's content in which all chats are shown."""
        for parts_roles in (facts.parts_roles, facts.parts_roles | {role}):
            candidate = replace(facts, parts_roles=parts_roles)
            if self._shows(candidate, *chats):
                return candidate
        return None

    def _find_system(self, facts: TemplateFacts) -> TemplateFacts:
        system = "system user", "system user assistant user"
        found = self._find_form(facts, MessageRole.SYSTEM, *system)
        if found is None:
            return replace(facts, system=SystemPlacement.NOWHERE)
        if self._shows(found, "user assistant") and not self._shows(found, "system user assistant"):
            return replace(found, system=SystemPlacement.FIRST, system_needs_last_user=True)
        anywhere = self._shows(found, "system system user", "user system user", "user system")
        if anywhere and self._shows(found, "system user assistant system user"):
            return found
        return replace(found, system=SystemPlacement.FIRST)

    def _find_order(self, facts: TemplateFacts) -> TemplateFacts:
        first = ["assistant user", "assistant"]
        if facts.system is not SystemPlacement.NOWHERE:
            first += ["system assistant user", "system"]
        return replace(
            facts,
            repeated_users=self._shows(facts, "user user", "user assistant user user"),
            repeated_assistants=self._shows(facts, "user assistant assistant user"),
            assistant_first=self._shows(facts, *first),
            assistant_last=self._shows(facts, "user assistant"),
        )

    def _find_neutral_text(self, facts: TemplateFacts) -> TemplateFacts:
        for text in _NEUTRAL_TEXTS:
            candidate = replace(facts, neutral_text=text)
            if self._shows(candidate, "no_user assistant user", "user no_assistant user"):
                return candidate
        return facts

    def _find_tools(self, facts: TemplateFacts, format_: ToolCallFormat) -> TemplateFacts:
        """The facts with tools, if a call and its result are shown in some form."""
        lists = (True, False) if format_ in FORMATS_WITH_INSTRUCTIONS else (True,)
        forms = facts.parts_roles, facts.parts_roles | {MessageRole.TOOL}
        for lists_tools, parts_roles, null_content, as_text in product(
            lists, forms, (False, True), (False, True)
        ):
            candidate = replace(
                facts,
                tools=True,
                lists_tools=lists_tools,
                parts_roles=parts_roles,
                null_content=null_content,
                arguments_as_text=as_text,
            )
            if self._shows(candidate, "user call result"):
                found = self._find_call_order(candidate)
                shown = [
                    self._outcome(chat, found, normalize=True) is Outcome.SHOWN
                    for chat in _UNUSUAL_CHATS_WITH_TOOLS
                ]
                return found if all(shown) else facts
        return facts

    def _find_call_order(self, facts: TemplateFacts) -> TemplateFacts:
        first = ["assistant user"]
        if facts.system is not SystemPlacement.NOWHERE:
            first.append("system")
            if not self._shows(facts, "system user call result"):
                facts = replace(facts, system=SystemPlacement.FIRST, system_needs_last_user=True)
        without_tools = self._outcome("user call result assistant user", facts, tools=())
        return replace(
            facts,
            assistant_first=facts.assistant_first and self._shows(facts, *first),
            text_with_calls=self._shows(facts, "user text+call result"),
            parallel_calls=self._shows(facts, "user calls result result"),
            user_after_tool=self._shows(facts, "user call result user"),
            calls_without_tools=without_tools is Outcome.SHOWN,
        )

    def _shows(self, facts: TemplateFacts, *chats: str) -> bool:
        return all(self._outcome(chat, facts) is Outcome.SHOWN for chat in chats)

    def _outcome(
        self,
        chat: str,
        facts: TemplateFacts,
        *,
        tools: Sequence[Tool] = (_TOOL,),
        normalize: bool = False,
    ) -> Outcome:
        """Raises TemplateLimitExceeded."""
        if time.monotonic() > self._ends_at:
            raise TemplateLimitExceeded(
                f"the model's chat template took over {_TIMEOUT_S:g} s for a few short chats"
            )
        messages: Sequence[Message] = _build_chat(chat, facts.neutral_text)
        expected = [text for message in messages for text in _texts(message)]
        offered = tools if facts.tools and facts.lists_tools else ()
        expected += [text for tool in offered for text in (tool.name, tool.description)]
        if normalize:
            messages = normalize_messages(messages, facts)
        try:
            prompt = self._render(messages, offered, facts)
        except TemplateLimitExceeded:
            raise
        except TemplateError as error:
            self._error = str(error)
            return Outcome.REFUSED
        self._error = ""
        # A template that expects another form shows a value as Python writes it.
        reprs = [f"{key!r}: {text!r}" for text in expected for key in ("key", "text")]
        shown = all(text in prompt for text in expected) and not any(r in prompt for r in reprs)
        return Outcome.SHOWN if shown else Outcome.LOST


def _build_chat(chat: str, neutral_text: str) -> list[Message]:
    """The messages that the words of `chat` stand for, each with a text of its own."""
    messages: list[Message] = []
    unanswered: list[str] = []
    for at, word in enumerate(chat.split()):
        text = f"probe{at}text"
        match word:
            case "call" | "calls" | "text+call":
                calls = [_build_call(f"{at}x{number}") for number in range(1 + (word == "calls"))]
                unanswered += [call.id for call in calls]
                content = text if word == "text+call" else ""
                messages.append(Message(MessageRole.ASSISTANT, content, tuple(calls)))
            case "result":
                call_id = unanswered.pop(0)
                messages.append(Message(MessageRole.TOOL, text, tool_call_id=call_id))
            case "no_user" | "no_assistant":
                messages.append(Message(MessageRole(word.removeprefix("no_")), neutral_text))
            case _:
                messages.append(Message(MessageRole(word), text))
    return messages


def _build_call(label: str) -> ToolCall:
    return ToolCall(f"call{label}end", _TOOL.name, json.dumps({"key": f"probe{label}value"}))


def _texts(message: Message) -> list[str]:
    values = [json.loads(call.arguments)["key"] for call in message.tool_calls]
    names = [call.name for call in message.tool_calls]
    return [*filter(None, [message.content]), *values, *names]


def _lost_message(which: str) -> str:
    return (
        f"the model's chat template loses texts {which}; use a file of this model with another "
        "template, or one without (ChatML is used then)"
    )
