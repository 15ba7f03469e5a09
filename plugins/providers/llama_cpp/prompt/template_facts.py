"""What a chat template takes: found out by template_probe.py, used by message_normalizer.py."""

from enum import Enum, auto

from msgspec import Struct

from appliance.domain.messages import MessageRole


class SystemPlacement(Enum):
    """Where a template shows a system message."""

    ANYWHERE = auto()
    FIRST = auto()
    NOWHERE = auto()


class TemplateFacts(Struct, frozen=True):
    """The messages that a chat template takes. Each default needs no change of the messages.

    parts_roles             roles whose content it reads as a list of parts, not as a text
    system                  where it shows a system message
    system_needs_last_user  it shows the system message only if the last message is the user's
    repeated_users          it takes two user messages in a row
    repeated_assistants     it takes two assistant messages in a row
    assistant_first         it takes chats in which the assistant speaks first, or nobody
    assistant_last          it takes chats that end with the assistant's message
    needs_tool_list         it takes an empty list, not None, where no tools are offered
    neutral_text            the text of an inserted message: "" unless the template refuses that

    tools                   it shows calls and their results
    lists_tools             it shows the tools
    arguments_as_text       it takes the arguments of a call as JSON text, not as a value
    null_content            it takes no text, not even an empty one, beside calls
    text_with_calls         it shows the text beside calls
    parallel_calls          it takes several calls in one message
    user_after_tool         it takes the user's message right after a call or its result
    calls_without_tools     it shows calls also if no tools are offered
    """

    parts_roles: frozenset[MessageRole] = frozenset()
    system: SystemPlacement = SystemPlacement.ANYWHERE
    system_needs_last_user: bool = False
    repeated_users: bool = True
    repeated_assistants: bool = True
    assistant_first: bool = True
    assistant_last: bool = True
    needs_tool_list: bool = False
    neutral_text: str = ""
    tools: bool = False
    lists_tools: bool = True
    arguments_as_text: bool = False
    null_content: bool = False
    text_with_calls: bool = True
    parallel_calls: bool = True
    user_after_tool: bool = True
    calls_without_tools: bool = True

    @property
    def takes_any_order(self) -> bool:
        """Whether it takes every chat as it is, apart from the form of the content."""
        return (
            self.system is SystemPlacement.ANYWHERE
            and self.repeated_users
            and self.repeated_assistants
            and self.assistant_first
            and self.assistant_last
            and self.text_with_calls
            and self.parallel_calls
            and self.user_after_tool
            and not self.neutral_text
        )
