"""The grammar of a JSON schema alone; the product combines its rule with others."""

from typing import Any

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_builder import Rules
from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_runs import check_runs
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules
from plugins.providers.llama_cpp.grammar.json_schema.compiler import schema_rule


def schema_grammar(schema: Any, place: str) -> str:
    """The checked grammar of the JSON texts that satisfy a schema. Raises InvalidInput."""
    rules = Rules()
    text = rules.text(schema_rule(rules, schema, place))
    try:
        check_runs(checked_rules(text))
    except GrammarError as error:
        raise InvalidInput.at(place, f"no grammar can be made of it: {error}") from error
    return text
