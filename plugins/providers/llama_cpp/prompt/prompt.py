"""Requests to prompt tokens, so that nobody's text can pose as the template's own marks."""

import json
from collections import OrderedDict
from collections.abc import Sequence

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
from plugins.providers.llama_cpp.engine.prefix_cache import common_length
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.prompt.special_token_guard import Mask
from plugins.providers.llama_cpp.prompt.template import ChatTemplate
from plugins.providers.llama_cpp.prompt.tools import with_system
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.sampling.vocabulary import fill_in_tokens, vocabulary
from plugins.providers.llama_cpp.tool_calls.markers import SHOWN

_SYSTEMS_KEPT = 32
# Two users who begin differently: what their prompts share is nobody's own text.
_STRANGERS = ("a", "Z")


class Prompt(Struct, frozen=True):
    """What the model reads.

    The first `system_tokens` are the leading system message, or the mark with which a
    text begins; they say nothing of the user's own where that message is the box's.
    """

    tokens: list[int]
    system_tokens: int = 0


class PromptMaker:
    """Renders and tokenizes for one model. May be used by one thread at a time."""

    def __init__(self, model: Model) -> None:
        self.model = self._model = model
        self._first = model.first_token
        template = self._template = ChatTemplate(
            model.chat_template, bos=model.special_text("bos"), eos=model.special_text("eos")
        )
        self.stops, self.note = template.stops, template.note
        self.form: CallForm = template.form
        self.marks_arguments = template.marks_arguments
        self._fill_in = fill_in_tokens(model)
        self._systems: OrderedDict[str, list[int]] = OrderedDict()
        _reveal_marks(model)

    def prompt(self, request: CompletionRequest) -> Prompt:
        """The exact tokens that the model will read.

        Raises TemplateError, NativeError, or InvalidInput for what this model can't do.
        """
        if request.raw is not None:
            tokens = self._raw(request.raw)
        else:
            tokens = self.tokens(request.messages, offered_tools(request), _demand(request))
        if not tokens:
            raise InvalidInput.at("prompt", "it has no token, so there is nothing to go on from")
        return Prompt(tokens, self._system(request.messages, tokens))

    def tokens(
        self, messages: Sequence[Message], tools: Sequence[Tool] = (), demand: str = ""
    ) -> list[int]:
        """A chat's tokens; `demand` is said of the answer's format in the system message."""
        mask = Mask(self._holds_special, raw_arguments=self.form is CallForm.XML)
        masked = [mask.message(message) for message in messages]
        if demand:
            masked = with_system(masked, mask.text(demand))
        rendered = self._template.render(masked, [mask.tool(tool) for tool in tools])
        tokens: list[int] = []
        for text, own in mask.parts(rendered):
            tokens += self._model.tokenize(text, parse_special=own)
        return self._begun(tokens)

    def _raw(self, raw: RawPrompt) -> list[int]:
        """Without a suffix the text may hold special tokens: it is the whole prompt."""
        if raw.suffix is None:
            return self._begun(self._model.tokenize(raw.text, parse_special=True))
        if self._fill_in is None:
            raise InvalidInput.at(
                "suffix", "this model has no tokens to fill a gap; leave the suffix out"
            )
        prefix, suffix, middle = self._fill_in
        before = self._model.tokenize(raw.text, parse_special=False)
        after = self._model.tokenize(raw.suffix, parse_special=False)
        return self._begun([prefix, *before, suffix, *after, middle])

    def _begun(self, tokens: list[int]) -> list[int]:
        if self._first is not None and tokens[:1] != [self._first]:
            tokens.insert(0, self._first)
        return tokens

    def _system(self, messages: Sequence[Message], tokens: list[int]) -> int:
        """How far this prompt is as any other one under the same system message."""
        if messages and messages[0].role is MessageRole.SYSTEM:
            return common_length(self._beginning(messages[0]), tokens)
        return int(tokens[0] == self._first)

    def _beginning(self, system: Message) -> list[int]:
        """The tokens with which every prompt under this system message begins."""
        known = self._systems.get(system.content)
        if known is None:
            one, other = (
                self.tokens([system, Message(MessageRole.USER, text)]) for text in _STRANGERS
            )
            known = self._systems[system.content] = one[: common_length(one, other)]
            if len(self._systems) > _SYSTEMS_KEPT:
                self._systems.popitem(last=False)
        return known

    def _holds_special(self, text: str) -> bool:
        if not vocabulary(self._model).may_hold_special(text):
            return False
        plain = self._model.tokenize(text, parse_special=False)
        return plain != self._model.tokenize(text, parse_special=True)


def _demand(request: CompletionRequest) -> str:
    """What the model has to be told of the format; a grammar only holds it to that."""
    if request.output.kind is OutputKind.SCHEMA:
        schema = json.dumps(request.output.schema, ensure_ascii=False)
        return f"Answer with JSON only, following this JSON schema: {schema}"
    return "Answer with a JSON object only." if request.output.kind is OutputKind.JSON else ""


def _reveal_marks(model: Model) -> None:
    for mark in SHOWN:
        tokens = model.tokenize(mark, parse_special=True)
        if len(tokens) == 1 and not model.piece(tokens[0]):
            model.reveal(tokens[0])
