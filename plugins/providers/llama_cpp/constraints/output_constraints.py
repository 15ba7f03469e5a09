"""What a request demands of its answer, as one grammar for the sampler."""

from collections.abc import Sequence
from functools import lru_cache

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind, Tool, ToolUse
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_ambiguity import check_readings
from plugins.providers.llama_cpp.grammar.gbnf_builder import COMMON_NAMES, Rules
from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules, is_recursive
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import CallForm
from plugins.providers.llama_cpp.sampling.sampler import made_grammar
from plugins.providers.llama_cpp.tool_calls.grammar import call_rule

_LONGEST_GRAMMAR = 64 * 1024
_KEPT = 64
_CALLERS = "output.grammar"


def offered_tools(request: CompletionRequest) -> tuple[Tool, ...]:
    """The tools that the model hears of: none if it may not call, one if that is demanded."""
    choice = request.tool_choice
    if choice.use is ToolUse.NONE:
        return ()
    if choice.name:
        return tuple(tool for tool in request.tools if tool.name == choice.name)
    return request.tools


class Outputs:
    """Makes and checks the grammars of one model's answers."""

    def __init__(self, model: Model, form: CallForm, *, marks_arguments: bool) -> None:
        self._model = model
        self._form, self._marks_arguments = form, marks_arguments
        self._checked = lru_cache(maxsize=_KEPT)(self._check)

    def grammar(self, request: CompletionRequest) -> str:
        """The GBNF that the answer has to follow, "" for none.

        It has passed llama.cpp. Raises InvalidInput that names the wrong field.
        """
        rules, ways = Rules(), list[str]()
        tools = offered_tools(request)
        if tools and self._calls_are_constrained(request):
            ways.append(self._calls(rules, tools, request))
        if not (tools and request.tool_choice.use is ToolUse.REQUIRED):
            if request.output.kind is OutputKind.GRAMMAR:
                return self._callers(request.output, tools)
            ways += _answers(rules, request.output)
        if not ways:
            return ""
        text = rules.text(" | ".join(ways))
        self._checked(text, "output.schema" if request.output.schema else "tools")
        return text

    def _calls_are_constrained(self, request: CompletionRequest) -> bool:
        """Calls of free will are only constrained together with the answer's own format."""
        required = request.tool_choice.use is ToolUse.REQUIRED
        return required or request.output.kind in {OutputKind.JSON, OutputKind.SCHEMA}

    def _calls(self, rules: Rules, tools: Sequence[Tool], request: CompletionRequest) -> str:
        return call_rule(
            rules,
            tools,
            self._form,
            parallel=request.tool_choice.parallel,
            marks_arguments=self._marks_arguments,
        )

    def _callers(self, output: OutputFormat, tools: Sequence[Tool]) -> str:
        if tools:
            raise InvalidInput.at(_CALLERS, "can't be joined with tools")
        if len(output.grammar.encode()) > _LONGEST_GRAMMAR:
            raise InvalidInput.at(_CALLERS, f"at most {_LONGEST_GRAMMAR} bytes are allowed")
        self._checked(output.grammar, _CALLERS)
        return output.grammar

    def _check(self, text: str, place: str) -> None:
        """By our own reading first, as llama.cpp survives few mistakes; then by its own."""
        try:
            rules = checked_rules(text)
            if is_recursive(rules, () if place == _CALLERS else COMMON_NAMES):
                check_readings(rules)
            made = made_grammar(self._model, text)
        except GrammarError as error:
            raise InvalidInput.at(place, f"not a usable grammar: {error}") from error
        except NativeError as error:
            raise InvalidInput.at(
                place, "llama.cpp does not take it: repetitions within repetitions are too many"
            ) from error
        self._model.lib.llama_sampler_free(made)


def _answers(rules: Rules, output: OutputFormat) -> list[str]:
    match output.kind:
        case OutputKind.JSON:
            return ["object"]
        case OutputKind.SCHEMA:
            return [schema_rule(rules, output.schema, "output.schema")]
        case _:
            return []
