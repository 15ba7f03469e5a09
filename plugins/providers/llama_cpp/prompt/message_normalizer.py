"""Rewrites a chat into one that the model's template takes, without losing a text.

System messages that the template does not take go into the user's next message. Messages of one
side in a row become one, their texts joined by a blank line. Where the template wants another
side's message in between, one with a neutral text is inserted.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from appliance.domain.messages import Message, MessageRole
from plugins.providers.llama_cpp.prompt.template_facts import SystemPlacement, TemplateFacts
from plugins.providers.llama_cpp.prompt.tools import split_parallel_calls, split_text_and_calls

_SEPARATOR = "\n\n"


def normalize_messages(messages: Sequence[Message], facts: TemplateFacts) -> Sequence[Message]:
    """The same chat, as a template with these facts takes it."""
    if facts.takes_any_order:
        return messages
    if not facts.parallel_calls:
        messages = split_parallel_calls(messages)
    if not facts.text_with_calls:
        messages = split_text_and_calls(messages)
    if facts.system is not SystemPlacement.ANYWHERE:
        messages = _place_system_texts(messages, facts)
    messages = list(_insert_turns(_merge_turns(messages, facts), facts))
    return [_fill_in(message, facts) for message in messages] if facts.neutral_text else messages


def _place_system_texts(messages: Sequence[Message], facts: TemplateFacts) -> list[Message]:
    """The leading system messages become one if the template takes that, all others user text."""
    turns: list[Message] = []
    texts: list[str] = []
    takes_system = _takes_system(messages, facts)
    for message in messages:
        if message.role is MessageRole.SYSTEM:
            texts.append(message.content)
            continue
        if texts and not turns and takes_system:
            turns.append(_join(MessageRole.SYSTEM, texts))
            texts = []
        if texts and message.role is MessageRole.USER:
            turns.append(_join(MessageRole.USER, [*texts, message.content]))
            texts = []
            continue
        # The results of calls stay behind the calls.
        if texts and message.role is MessageRole.ASSISTANT:
            turns.append(_join(MessageRole.USER, texts))
            texts = []
        turns.append(message)
    if texts:
        alone = not turns and takes_system
        turns.append(_join(MessageRole.SYSTEM if alone else MessageRole.USER, texts))
    return turns


def _takes_system(messages: Sequence[Message], facts: TemplateFacts) -> bool:
    if facts.system is SystemPlacement.NOWHERE:
        return False
    last = messages[-1].role
    ends_with_user = last is MessageRole.USER or (
        last is MessageRole.ASSISTANT and not facts.assistant_last
    )
    return ends_with_user or not facts.system_needs_last_user


def _merge_turns(messages: Iterable[Message], facts: TemplateFacts) -> Iterator[Message]:
    """Merge the messages of one side in a row, if the template does not take them."""
    run: list[Message] = []
    for message in messages:
        if run and not _can_merge(run[-1], message, facts):
            yield _merge(run)
            run = []
        run.append(message)
    if run:
        yield _merge(run)


def _can_merge(last: Message, message: Message, facts: TemplateFacts) -> bool:
    """Calls can only be at the end of a merged message, and there be only one message's."""
    if last.role is not message.role:
        return False
    if message.role is MessageRole.USER:
        return not facts.repeated_users
    if message.role is not MessageRole.ASSISTANT or facts.repeated_assistants or last.tool_calls:
        return False
    return facts.text_with_calls or not message.tool_calls


def _merge(run: Sequence[Message]) -> Message:
    if len(run) == 1:
        return run[0]
    merged = _join(run[0].role, [message.content for message in run])
    return replace(merged, tool_calls=run[-1].tool_calls)


def _insert_turns(messages: Iterable[Message], facts: TemplateFacts) -> Iterator[Message]:
    """Insert a neutral message wherever the template wants another side's."""
    user = Message(MessageRole.USER, facts.neutral_text)
    assistant = Message(MessageRole.ASSISTANT, facts.neutral_text)
    last: Message | None = None
    for message in messages:
        starts = last is None and message.role is MessageRole.ASSISTANT
        if starts and not facts.assistant_first:
            yield user
        if last is not None:
            pair = last.role, message.role
            after_call = last.tool_calls or last.role is MessageRole.TOOL
            if pair == (MessageRole.ASSISTANT, MessageRole.ASSISTANT):
                yield from () if facts.repeated_assistants else (user,)
            elif after_call and message.role is MessageRole.USER and not facts.user_after_tool:
                yield assistant
        yield message
        if message.role is not MessageRole.SYSTEM:
            last = message
    nobody_speaks = last is None and not facts.assistant_first
    if nobody_speaks or (
        last is not None and last.role is MessageRole.ASSISTANT and not facts.assistant_last
    ):
        yield user


def _fill_in(message: Message, facts: TemplateFacts) -> Message:
    speaks = message.role in {MessageRole.USER, MessageRole.ASSISTANT}
    if speaks and not message.tool_calls and not message.content.strip():
        return replace(message, content=facts.neutral_text)
    return message


def _join(role: MessageRole, texts: Sequence[str]) -> Message:
    return Message(role, _SEPARATOR.join(text for text in texts if text))
