"""The model's chat template, or ChatML if it has none, and how it handles tools."""

from collections.abc import Iterator, Sequence
from typing import Any

from appliance.domain.messages import Message, MessageRole, Tool, ToolCall
from plugins.providers.llama_cpp.prompt import tools as tool_prompts
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.message_normalizer import normalize_messages
from plugins.providers.llama_cpp.prompt.renderer import LocalRenderer, Renderer
from plugins.providers.llama_cpp.prompt.template_facts import TemplateFacts
from plugins.providers.llama_cpp.prompt.template_probe import TemplateProbe
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


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue.

    `stops` are strings that end a completion beside the model's end tokens. `note` says
    if the model's own template could not be used. `facts` are what the template takes;
    `tool_call_format` is how the model writes tool calls.
    """

    def __init__(
        self, source: str | None, *, bos: str, eos: str, renderer: Renderer | None = None
    ) -> None:
        """Probes the template.

        Raises TemplateError if the template loses texts, or TemplateLimitExceeded.
        """
        self._renderer = renderer or LocalRenderer()
        self.stops: tuple[str, ...] = ()
        self.note = ""
        self._variables = {"bos_token": bos, "eos_token": eos}
        self._source = self._choose_source(source)
        detected = _detect_format(source or "")
        self.uses_args_marker = markers.ARGS_MARKER in (source or "")
        self.tool_call_format = detected or ToolCallFormat.HERMES
        self.facts = TemplateProbe(self._render).find_facts(detected)
        if not self.facts.tools:
            self.tool_call_format = ToolCallFormat.HERMES

    def render(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> str:
        """The prompt's text. Raises TemplateError if the template rejects the messages.

        The messages are changed into what the template takes. If it takes no tools, tools and
        calls are rendered as text.
        """
        facts = self.facts
        if not facts.tools or not (tools or facts.calls_without_tools):
            messages = tool_prompts.render_calls_as_text(messages)
        if tools and not (facts.tools and facts.lists_tools):
            instructions = tool_prompts.tool_instructions(tools, self.tool_call_format)
            messages, tools = tool_prompts.append_to_system(messages, instructions), ()
        return self._render(normalize_messages(messages, facts), tools, facts)

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

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Tool], facts: TemplateFacts
    ) -> str:
        no_tools: list[Any] | None = [] if facts.needs_tool_list else None
        variables = {
            "messages": list(self._to_openai_messages(messages, facts)),
            "add_generation_prompt": True,
            "tools": [tool_prompts.describe_tool(tool) for tool in tools] or no_tools,
            **self._variables,
        }
        return self._renderer.render(self._source, variables)

    def _to_openai_messages(
        self, messages: Sequence[Message], facts: TemplateFacts
    ) -> Iterator[dict[str, Any]]:
        """Messages as in OpenAI's API, in the forms that the template reads."""
        names = {call.id: call.name for message in messages for call in message.tool_calls}
        for message in messages:
            as_parts = message.role in facts.parts_roles
            content = [{"type": "text", "text": message.content}] if as_parts else message.content
            body: dict[str, Any] = {"role": message.role.value, "content": content}
            if message.tool_calls:
                body["tool_calls"] = [self._call(call, facts) for call in message.tool_calls]
                if facts.null_content and not message.content:
                    body["content"] = None
            if message.role is MessageRole.TOOL:
                body["tool_call_id"] = self._id(message.tool_call_id)
                body["name"] = names.get(message.tool_call_id, "")
            yield body

    def _call(self, call: ToolCall, facts: TemplateFacts) -> dict[str, Any]:
        as_text = facts.arguments_as_text
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
