"""The model's chat template, or ChatML if it has none, and how it handles tools."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt import tools as tool_prompts
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    TemplateError,
    TemplateLimitExceeded,
)
from plugins.providers.llama_cpp.prompt.renderer import LocalRenderer, Renderer
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.tool_calls import markers

_CHATML_STOP = "<|im_end|>"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The format of a model's calls, by the texts in its template's source; the first match counts.
# None: a format that is not supported.
_FORMAT_SIGNATURES = (
    (
        (
            markers.DEEPSEEK_CALLS_BEGIN,
            markers.DEEPSEEK_SEPARATOR,
            markers.JSON_FENCE_START.strip(),
        ),
        ToolCallFormat.DEEPSEEK_V3,
    ),
    ((markers.DEEPSEEK_CALLS_BEGIN, markers.DEEPSEEK_SEPARATOR), ToolCallFormat.DEEPSEEK_V31),
    (
        (markers.CALL_START, markers.FUNCTION_START, markers.PARAMETER_START),
        ToolCallFormat.QWEN_XML,
    ),
    ((markers.FUNCTION_START,), None),
    (("<arg_key>",), None),
    ((markers.CALL_START,), ToolCallFormat.HERMES),
    ((markers.TOOL_CALLS_MARKER,), ToolCallFormat.MISTRAL),
    ((markers.PYTHON_TAG,), ToolCallFormat.LLAMA),
    (('"parameters": ',), ToolCallFormat.LLAMA),
)
_PROBE = ("probename", "probetext", "probevalue", "proberesult")
_PROBE_ID = "probecall"


class _TemplateTraits(Struct, frozen=True):
    """Whether a template lists the tools, and what it expects of messages with calls."""

    lists_tools: bool = True
    arguments_as_text: bool = False
    null_content: bool = False


_TRAITS = tuple(
    _TemplateTraits(lists, as_text, null)
    for lists in (True, False)
    for null in (False, True)
    for as_text in (False, True)
)


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue.

    `stops` are strings that end a completion beside the model's end tokens. `note` says
    if the model's own template could not be used. `tool_call_format` is how the model
    writes tool calls; `supports_tools`: its template takes calls and results.
    """

    def __init__(
        self, source: str | None, *, bos: str, eos: str, renderer: Renderer | None = None
    ) -> None:
        self._renderer = renderer or LocalRenderer()
        self.stops: tuple[str, ...] = ()
        self.note = ""
        self._variables = {"bos_token": bos, "eos_token": eos}
        self._source = self._choose_source(source)
        detected = _detect_format(source or "")
        self._traits = _TemplateTraits()
        self.uses_args_marker = markers.ARGS_MARKER in (source or "")
        self.tool_call_format = detected or ToolCallFormat.HERMES
        self.supports_tools = detected is not None and self._probe_tool_support()
        if not self.supports_tools:
            self.tool_call_format = ToolCallFormat.HERMES

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt's text. Raises TemplateError if the template rejects the messages.

        If the template takes no system message, it is merged into the first user message.
        If it takes no tools, tools and calls are rendered as text.
        """
        if not self.supports_tools:
            messages = tool_prompts.render_calls_as_text(messages)
        elif self.tool_call_format is ToolCallFormat.LLAMA:
            messages = tool_prompts.split_parallel_calls(messages)
        elif self._traits.null_content:
            messages = tool_prompts.split_text_and_calls(messages)
        if tools and not (self.supports_tools and self._traits.lists_tools):
            instructions = tool_prompts.tool_instructions(tools, self.tool_call_format)
            messages, tools = tool_prompts.append_to_system(messages, instructions), ()
        try:
            return self._render(messages, tools)
        except TemplateLimitExceeded:
            raise
        except TemplateError:
            merged = _merge_system(messages)
            if merged is None:
                raise
            return self._render(merged, tools)

    def _choose_source(self, source: str | None) -> str:
        try:
            if source:
                self._renderer.check(source)
                return source
        except TemplateError:
            self.note = "unreadable chat template, ChatML is used"
        else:
            self.note = "no chat template, ChatML is used"
        self.stops = (_CHATML_STOP,)
        return _CHATML

    def _probe_tool_support(self) -> bool:
        """Whether a tool, a call and its result show up in a rendered prompt.

        Some templates need a call's arguments as text, or no content beside it, and some
        leave the tools to the system message: keeps the first traits that work.
        """
        try:
            return self._find_traits()
        except TemplateLimitExceeded:
            self._traits = _TemplateTraits()
            return False

    def _find_traits(self) -> bool:
        name, _, value, result = _PROBE
        for traits in _TRAITS:
            if not (
                traits.lists_tools
                or self.tool_call_format in tool_prompts.FORMATS_WITH_INSTRUCTIONS
            ):
                continue
            self._traits = traits
            prompt = self._render_probe()
            expected = _PROBE if traits.lists_tools else (name, value, result)
            # A template that expects text shows a value as Python's repr, not as JSON.
            shows_repr = repr({"key": value}) in prompt
            if not shows_repr and all(text in prompt for text in expected):
                return True
        self._traits = _TemplateTraits()
        return False

    def _render_probe(self) -> str:
        """A prompt with a tool, a call and its result; "" if the template rejects them."""
        name, text, value, result = _PROBE
        call = ToolCall(_PROBE_ID, name, json.dumps({"key": value}))
        messages = (
            Message(MessageRole.USER, "question"),
            Message(MessageRole.ASSISTANT, "", (call,)),
            Message(MessageRole.TOOL, result, tool_call_id=_PROBE_ID),
        )
        try:
            return self._render(messages, (Tool(name, text),))
        except TemplateLimitExceeded:
            raise
        except TemplateError:
            return ""

    def _render(self, messages: Sequence[Message], tools: Sequence[Tool]) -> str:
        variables = {
            "messages": list(self._to_openai_messages(messages)),
            "add_generation_prompt": True,
            "tools": [tool_prompts.describe_tool(tool) for tool in tools] or None,
            **self._variables,
        }
        return self._renderer.render(self._source, variables)

    def _to_openai_messages(self, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
        """Messages as templates expect them: as in OpenAI's API, but arguments as values."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        for message in messages:
            body: dict[str, Any] = {"role": message.role.value, "content": message.content}
            if message.tool_calls:
                body["tool_calls"] = [self._call(call) for call in message.tool_calls]
                if self._traits.null_content and not message.content:
                    body["content"] = None
            if message.role is MessageRole.TOOL:
                body["tool_call_id"] = self._id(message.tool_call_id)
                body["name"] = names.get(message.tool_call_id, "")
            yield body

    def _call(self, call: ToolCall) -> dict[str, Any]:
        as_text = self._traits.arguments_as_text
        arguments = call.arguments if as_text else tool_prompts.parse_arguments(call)
        function = {"name": call.name, "arguments": arguments}
        return {"type": "function", "id": self._id(call.id), "function": function}

    def _id(self, call_id: str) -> str:
        shorten = self.tool_call_format is ToolCallFormat.MISTRAL
        return tool_prompts.shorten_call_id(call_id) if shorten else call_id


def _detect_format(source: str) -> ToolCallFormat | None:
    """The format of calls of a model with this template; None if it is not supported."""
    if "tools" not in source and "tool_calls" not in source:
        return None
    matches = (
        format_ for texts, format_ in _FORMAT_SIGNATURES if all(text in source for text in texts)
    )
    return next(matches, None)


def _merge_system(messages: Sequence[Message]) -> list[Message] | None:
    """Merge the system messages into the first user message; None if there is nothing to do."""
    system = [message.content for message in messages if message.role is MessageRole.SYSTEM]
    rest = [message for message in messages if message.role is not MessageRole.SYSTEM]
    if not system or not rest or rest[0].role is not MessageRole.USER:
        return None
    first = Message(MessageRole.USER, "\n\n".join([*system, rest[0].content]))
    return [first, *rest[1:]]
