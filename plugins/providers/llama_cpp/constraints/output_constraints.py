"""Combines a request's output format and tool calls into one grammar for the sampler."""

from collections.abc import Sequence
from functools import lru_cache

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind, Tool, ToolUse
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_ambiguity import check_readings
from plugins.providers.llama_cpp.grammar.gbnf_builder import COMMON_NAMES, Rules
from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_runs import check_runs
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules, is_recursive
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import ToolCallFormat
from plugins.providers.llama_cpp.sampling.grammar_sampler import create_grammar_sampler
from plugins.providers.llama_cpp.tool_calls.grammar import add_call_rule

_MAX_GRAMMAR_BYTES = 64 * 1024
_CACHE_SIZE = 64
_GRAMMAR_FIELD = "output.grammar"


def offered_tools(request: CompletionRequest) -> tuple[Tool, ...]:
    """The tools in the prompt: none if calls are forbidden, one if that one is required."""
    choice = request.tool_choice
    if choice.use is ToolUse.NONE:
        return ()
    if choice.name:
        return tuple(tool for tool in request.tools if tool.name == choice.name)
    return request.tools


class OutputConstraints:
    """Builds and checks the grammars for one model's completions."""

    def __init__(
        self, model: Model, tool_call_format: ToolCallFormat, *, uses_args_marker: bool
    ) -> None:
        self._model = model
        self._tool_call_format, self._uses_args_marker = tool_call_format, uses_args_marker
        self._find_problem_cached = lru_cache(maxsize=_CACHE_SIZE)(self._find_problem)

    def build_grammar(self, request: CompletionRequest) -> str:
        """The GBNF that the completion must follow, "" for none; llama.cpp accepts it.

        Raises InvalidInput that names the field at fault.
        """
        rules, alternatives = Rules(), list[str]()
        tools = offered_tools(request)
        if tools and self._constrains_calls(request):
            alternatives.append(self._calls(rules, tools, request))
        if not (tools and request.tool_choice.use is ToolUse.REQUIRED):
            if request.output.kind is OutputKind.GRAMMAR:
                return self._caller_grammar(request.output, tools)
            alternatives += _output_rules(rules, request.output)
        if not alternatives:
            return ""
        text = rules.text(" | ".join(alternatives))
        self._check(text, "output.schema" if request.output.schema else "tools")
        return text

    def _constrains_calls(self, request: CompletionRequest) -> bool:
        """Optional calls are constrained only together with the output format."""
        required = request.tool_choice.use is ToolUse.REQUIRED
        return required or request.output.kind in {OutputKind.JSON, OutputKind.SCHEMA}

    def _calls(self, rules: Rules, tools: Sequence[Tool], request: CompletionRequest) -> str:
        return add_call_rule(
            rules,
            tools,
            self._tool_call_format,
            parallel=request.tool_choice.parallel is not False,
            uses_args_marker=self._uses_args_marker,
        )

    def _caller_grammar(self, output: OutputFormat, tools: Sequence[Tool]) -> str:
        if tools:
            raise InvalidInput.at(_GRAMMAR_FIELD, "can't be combined with tools")
        if len(output.grammar.encode()) > _MAX_GRAMMAR_BYTES:
            raise InvalidInput.at(_GRAMMAR_FIELD, f"must have at most {_MAX_GRAMMAR_BYTES} bytes")
        self._check(output.grammar, _GRAMMAR_FIELD)
        return output.grammar

    def _check(self, text: str, place: str) -> None:
        problem = self._find_problem_cached(text, is_own=place != _GRAMMAR_FIELD)
        if problem is not None:
            raise InvalidInput.at(place, problem)

    def _find_problem(self, text: str, *, is_own: bool) -> str | None:
        """Check with our own parser first, as llama.cpp aborts on some errors, then with its.

        `is_own`: we wrote the grammar, whose common rules are known to be harmless. A refusal can
        take a second, so that it is kept as well.
        """
        try:
            rules = checked_rules(text)
            if is_recursive(rules, COMMON_NAMES if is_own else ()):
                check_readings(rules)
            check_runs(rules)
            made = create_grammar_sampler(self._model, text)
        except GrammarError as error:
            return f"can't be enforced: {error.summary}" if is_own else f"unusable grammar: {error}"
        except NativeError:
            return "can't be enforced: it has too many nested repetitions"
        self._model.lib.llama_sampler_free(made)
        return None


def _output_rules(rules: Rules, output: OutputFormat) -> list[str]:
    match output.kind:
        case OutputKind.JSON:
            return ["object"]
        case OutputKind.SCHEMA:
            return [schema_rule(rules, output.schema, "output.schema")]
        case _:
            return []
