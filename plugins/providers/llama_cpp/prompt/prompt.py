"""Renders and tokenizes prompts; special tokens in a caller's text stay plain text."""

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import Struct

from appliance.domain.messages import (
    CompletionRequest,
    Message,
    MessageRole,
    OutputKind,
    RawPrompt,
    Tool,
)
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.constraints.output_constraints import offered_tools
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.native.tokens import common_prefix_length
from plugins.providers.llama_cpp.prompt.length_bound import LengthBound
from plugins.providers.llama_cpp.prompt.renderer import Renderer
from plugins.providers.llama_cpp.prompt.special_token_guard import SpecialTokenGuard
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.prompt.tokenizer import Tokenizer, TooManyTokens
from plugins.providers.llama_cpp.prompt.tools import append_to_system
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.sampling.vocabulary import fill_in_tokens, load_vocabulary
from plugins.providers.llama_cpp.tool_calls.markers import VISIBLE_MARKERS

_MAX_SYSTEM_PREFIXES = 32
# Two user messages with different first tokens: what their prompts share is the system prefix.
_PROBE_USER_TEXTS = ("a", "Z")


class Prompt(Struct, frozen=True):
    """The tokens that the model reads.

    The first `system_tokens` are the prefix shared by all prompts with the same system
    message (BOS alone without one); they hold no text of the user.
    """

    tokens: list[int]
    system_tokens: int = 0


class PromptBuilder:
    """Builds the prompts of one model. May be used by one thread at a time."""

    def __init__(self, model: Model, renderer: Renderer | None = None) -> None:
        """`renderer` renders the model's chat template; without one it is trusted."""
        self.model = self._model = model
        self._bos_token = model.bos_token
        self._tokenizer = Tokenizer(model)
        self._tokenize: Callable[..., list[int]] = self._tokenizer.tokenize
        template = self._template = ChatTemplate(
            model.chat_template,
            bos=model.special_text("bos"),
            eos=model.special_text("eos"),
            renderer=renderer,
        )
        self.stops, self.note = template.stops, template.note
        self.tool_call_format: ToolCallFormat = template.tool_call_format
        self.uses_args_marker = template.uses_args_marker
        self._fill_in = fill_in_tokens(model)
        self._system_prefixes: OrderedDict[str, list[int]] = OrderedDict()
        self._length_bound = LengthBound(
            lambda messages: len(self.tokenize_chat(messages)),
            template.facts,
            longest_token=self._tokenizer.longest_token,
        )
        _show_markers(model)

    def build(
        self,
        request: CompletionRequest,
        room: int | None = None,
        check: Callable[[], None] | None = None,
    ) -> Prompt:
        """The exact tokens that the model will read.

        `check` is called now and then and may raise. Raises TemplateError, NativeError,
        TooManyTokens if there are certainly more than `room`, or InvalidInput for what this
        model lacks.
        """
        self._tokenize = partial(self._tokenizer.tokenize, room=room, check=check)
        if room is not None and (at_least := self._length_bound.at_least(request.messages)) > room:
            raise TooManyTokens(at_least)
        if request.raw is not None:
            tokens = self._raw_tokens(request.raw)
        else:
            tokens = self.tokenize_chat(
                request.messages, offered_tools(request), _format_instruction(request)
            )
        if not tokens:
            raise InvalidInput.at("prompt", "must have at least one token")
        return Prompt(tokens, self._system_prefix_length(request.messages, tokens))

    def tokenize_chat(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), instruction: str = ""
    ) -> list[int]:
        """A chat's tokens; `instruction` is appended to the system message."""
        raw_arguments = self.tool_call_format is ToolCallFormat.QWEN_XML
        guard = SpecialTokenGuard(self._contains_special, raw_arguments=raw_arguments)
        masked = [guard.mask_message(message) for message in messages]
        if instruction:
            masked = append_to_system(masked, guard.mask_text(instruction))
        text = self._template.render(masked, [guard.mask_tool(tool) for tool in tools])
        tokens: list[int] = []
        for part, is_template in guard.split_rendered(text):
            tokens += self._tokenize(part, parse_special=is_template)
        return self._with_bos(tokens)

    def _raw_tokens(self, raw: RawPrompt) -> list[int]:
        """Without a suffix the text is the whole prompt and may contain special tokens."""
        if raw.suffix is None:
            return self._with_bos(self._tokenize(raw.text, parse_special=True))
        if self._fill_in is None:
            raise InvalidInput.at(
                "suffix", "this model has no fill-in-the-middle tokens; omit the suffix"
            )
        prefix, suffix, middle = self._fill_in
        before = self._tokenize(raw.text, parse_special=False)
        after = self._tokenize(raw.suffix, parse_special=False)
        return self._with_bos([prefix, *before, suffix, *after, middle])

    def _with_bos(self, tokens: list[int]) -> list[int]:
        if self._bos_token is not None and tokens[:1] != [self._bos_token]:
            tokens.insert(0, self._bos_token)
        return tokens

    def _system_prefix_length(self, messages: Sequence[Message], tokens: list[int]) -> int:
        """The length of the prefix shared with other prompts under the same system message."""
        if messages and messages[0].role is MessageRole.SYSTEM:
            return common_prefix_length(self._system_prefix(messages[0]), tokens)
        return int(tokens[0] == self._bos_token)

    def _system_prefix(self, system: Message) -> list[int]:
        """The tokens that start every prompt under this system message."""
        prefix = self._system_prefixes.get(system.content)
        if prefix is None:
            one, other = (
                self.tokenize_chat([system, Message(MessageRole.USER, text)])
                for text in _PROBE_USER_TEXTS
            )
            prefix = self._system_prefixes[system.content] = one[: common_prefix_length(one, other)]
            if len(self._system_prefixes) > _MAX_SYSTEM_PREFIXES:
                self._system_prefixes.popitem(last=False)
        return prefix

    def _contains_special(self, text: str) -> bool:
        if not load_vocabulary(self._model).may_contain_special(text):
            return False
        plain = self._tokenize(text, parse_special=False)
        return plain != self._tokenize(text, parse_special=True)


def _format_instruction(request: CompletionRequest) -> str:
    """Tells the model the output format; the grammar alone would only force it."""
    if request.output.kind is OutputKind.SCHEMA:
        schema = json.dumps(request.output.schema, ensure_ascii=False)
        return f"Answer with JSON only, following this JSON schema: {schema}"
    return "Answer with a JSON object only." if request.output.kind is OutputKind.JSON else ""


def _show_markers(model: Model) -> None:
    for marker in VISIBLE_MARKERS:
        tokens = model.tokenize(marker, parse_special=True)
        if len(tokens) == 1 and not model.piece(tokens[0]):
            model.show_control_token(tokens[0])
