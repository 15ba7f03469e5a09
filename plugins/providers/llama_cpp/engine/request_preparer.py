"""Prepares a request for the decode loop: prompt tokens, grammar, stop strings."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind, ToolUse
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.constraints.output_constraints import (
    OutputConstraints,
    offered_tools,
)
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.prompt.prompt import Prompt, PromptBuilder
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary
from plugins.providers.llama_cpp.tool_calls.formats import FINAL_MARKERS


class PreparedRequest(Struct, frozen=True):
    """`request` has its output format as a grammar, and all stop strings.

    `tool_call_format` is that of the answer's tool calls, None if it can have none.
    """

    request: CompletionRequest
    prompt: Prompt
    tool_call_format: ToolCallFormat | None


class RequestPreparer:
    """Prepares requests for one model. Only one thread may use it at a time."""

    def __init__(self, prompts: PromptBuilder) -> None:
        self._prompts = prompts
        self._model: Model = prompts.model
        self._outputs = OutputConstraints(
            prompts.model, prompts.tool_call_format, uses_args_marker=prompts.uses_args_marker
        )

    def build_prompt(
        self, request: CompletionRequest, room: int, check: Callable[[], None]
    ) -> Prompt:
        """The prompt alone. Raises what PromptBuilder.build does."""
        return self._prompts.build(request, room, check)

    def prepare(
        self, request: CompletionRequest, room: int, check: Callable[[], None]
    ) -> PreparedRequest:
        """`check` is called now and then and may raise.

        Raises TemplateError, NativeError, TooManyTokens or InvalidInput.
        """
        self._check_biases(request)
        prompt = self._prompts.build(request, room, check)
        check()
        grammar = self._outputs.build_grammar(request)
        tool_call_format = self._prompts.tool_call_format if offered_tools(request) else None
        changes = {
            "output": OutputFormat(
                OutputKind.GRAMMAR if grammar else OutputKind.TEXT, grammar=grammar
            ),
            "sampling": msgspec.structs.replace(
                request.sampling,
                stop=(*request.sampling.stop, *_stops_of_call(request, tool_call_format)),
            ),
        }
        return PreparedRequest(
            msgspec.structs.replace(request, **changes), prompt, tool_call_format
        )

    def _check_biases(self, request: CompletionRequest) -> None:
        size = load_vocabulary(self._model).size
        for token, _ in request.sampling.logit_bias:
            if token >= size:
                raise InvalidInput.at(
                    "logit_bias", f"token {token} is out of range (0 to {size - 1} for this model)"
                )


def _stops_of_call(
    request: CompletionRequest, tool_call_format: ToolCallFormat | None
) -> tuple[str, ...]:
    """If one tool call is all that is allowed, its end is the end of the answer."""
    optional = request.tool_choice.use in (None, ToolUse.AUTO)
    single = optional and request.tool_choice.parallel is False
    marker = FINAL_MARKERS.get(tool_call_format) if tool_call_format and single else None
    return (marker,) if marker else ()
