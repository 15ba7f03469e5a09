"""A request made ready for the decode loop: its tokens, its grammar, its stop strings."""

import msgspec
from msgspec import Struct

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind, ToolUse
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.constraints.output_constraints import Outputs, offered_tools
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.prompt.prompt import Prompt, PromptMaker
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.sampling.vocabulary import vocabulary
from plugins.providers.llama_cpp.tool_calls.formats import LAST_WORDS


class Prepared(Struct, frozen=True):
    """`request` has every output format as a grammar, and the stop strings that it needs.

    `form` says where tool calls will be found in the answer, None if it has none.
    """

    request: CompletionRequest
    prompt: Prompt
    form: CallForm | None


class Preparer:
    """Prepares for one model. May be used by one thread at a time."""

    def __init__(self, prompts: PromptMaker) -> None:
        self._prompts = prompts
        self._model: Model = prompts.model
        self._outputs = Outputs(
            prompts.model, prompts.form, marks_arguments=prompts.marks_arguments
        )

    def prompt(self, request: CompletionRequest) -> Prompt:
        """The prompt alone. Raises what PromptMaker.prompt does."""
        return self._prompts.prompt(request)

    def prepared(self, request: CompletionRequest) -> Prepared:
        """All of it. Raises TemplateError, NativeError or InvalidInput."""
        self._check_biases(request)
        prompt = self._prompts.prompt(request)
        grammar = self._outputs.grammar(request)
        form = self._prompts.form if offered_tools(request) else None
        changes = {
            "output": _as_grammar(grammar),
            "sampling": msgspec.structs.replace(
                request.sampling, stop=(*request.sampling.stop, *self._stops(request, form))
            ),
        }
        return Prepared(msgspec.structs.replace(request, **changes), prompt, form)

    def _check_biases(self, request: CompletionRequest) -> None:
        size = vocabulary(self._model).size
        for token, _ in request.sampling.logit_bias:
            if token >= size:
                raise InvalidInput.at(
                    "logit_bias", f"this model has the tokens 0 to {size - 1}, and no {token}"
                )

    @staticmethod
    def _stops(request: CompletionRequest, form: CallForm | None) -> tuple[str, ...]:
        """Where one call is all that is wanted, its end is the answer's."""
        free = request.tool_choice.use is ToolUse.AUTO
        alone = free and not request.tool_choice.parallel
        last = LAST_WORDS.get(form) if form and alone else None
        return (last,) if last else ()


def _as_grammar(grammar: str) -> OutputFormat:
    kind = OutputKind.GRAMMAR if grammar else OutputKind.TEXT
    return OutputFormat(kind, grammar=grammar)
