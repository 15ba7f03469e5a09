"""Grammars and schemas for which llama.cpp would follow too many parses of one token."""

import ctypes
import time
from typing import Any

import pytest

from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_runs import check_runs
from plugins.providers.llama_cpp.grammar.gbnf_safety import checked_rules
from plugins.providers.llama_cpp.native.bindings import Model
from plugins.providers.llama_cpp.sampling.grammar_sampler import create_grammar_sampler
from plugins.providers.llama_cpp.sampling.logits import LogitsArray
from tests.support.llama_model import BYTES, open_model
from tests.support.schema_grammar import schema_grammar
from tests.support.tiny_gguf import write_tiny_gguf


def _nested_lists(depth: int) -> dict[str, Any]:
    if not depth:
        return {"type": "string"}
    inner = _nested_lists(depth - 1)
    return {"anyOf": [{"type": "array", "items": inner, "maxItems": n} for n in range(1, 7)]}


_TOO_MANY = r"too many parses|ways to go on|too ambiguous"
_CHAIN = "\n".join(["root ::= " + "x " * 10, "x ::= " + "w " * 10, 'w ::= "a"?'])
_HOSTILE = {
    "F53 nested option": 'root ::= ("a"?){200} "b"',
    "F61 chain of options": _CHAIN,
    "longer chain": "\n".join(f"{'root' if n == 0 else f'r{n}'} ::= " + f"r{n + 1} " * 10
                              for n in range(3)) + '\nr3 ::= "a"?',
    "repeated repetition": 'root ::= a{8}\na ::= b{6}\nb ::= c{6}\nc ::= "x"?',
    "blanks": 'root ::= " "* " "* " "* " "* "b"',
    "doubling without recursion": "\n".join(
        f'{"root" if n == 0 else f"r{n}"} ::= "a" r{n + 1} "b" | "a" r{n + 1} "c" | ""'
        for n in range(40)
    ) + '\nr40 ::= "z"',
    "behind a long text": 'root ::= "x"{300} ("a"?){100} "b"',
    "behind a rule that stands elsewhere as well":
        'root ::= "0" p | "z" q\np ::= [a-z]{200}\nq ::= p ("a"?){60} "b"',
    "behind a list that is used twice":
        'root ::= p "." | p ("a"?){60} "b"\np ::= [b-z]*',
}  # fmt: skip
_CALM = [
    'root ::= ("a"?){12} "b"',
    'root ::= ([a-z]+ " "?)+ "."',
    'root ::= ws* "x"\nws ::= [ \\t]*',
    "root ::= " + " | ".join(f'"word {at}"' for at in range(300)),
    'root ::= term ([-+*/] term)*\nterm ::= [a-z]+ ws | "(" ws root ")" ws\nws ::= [ ]*',
]
_HOSTILE_SCHEMAS = {
    "F53 pattern": {"type": "string", "pattern": "^(a?){300}b$"},
    "hidden pattern": {"properties": {"a": {"type": "string", "pattern": "^[a-z]{99}(x?){50}y$"}}},
    "nested choices": _nested_lists(4),
    "3000 optional properties": {"properties": {f"p{n}": {"type": "string"} for n in range(3000)}},
}
_USUAL_SCHEMAS = [
    {"type": "string", "maxLength": 20_000},
    {"type": "string", "pattern": "^(\\w+\\s?)+$"},
    {"type": "string", "format": "email"},
    {"enum": [f"value {at}" for at in range(5000)]},
    {"properties": {f"property_{at}": {"type": "string"} for at in range(100)}},
    {"properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "required": ["a"]},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return open_model(write_tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf"))


@pytest.mark.parametrize("grammar", _HOSTILE.values(), ids=_HOSTILE)
def test_grammar_when_a_short_text_has_too_many_parses_then_rejected(grammar: str):
    with pytest.raises(GrammarError, match=_TOO_MANY):
        check_runs(checked_rules(grammar))


@pytest.mark.parametrize("schema", _HOSTILE_SCHEMAS.values(), ids=_HOSTILE_SCHEMAS)
def test_schema_when_a_short_text_has_too_many_parses_then_rejected(schema: dict[str, Any]):
    with pytest.raises(InvalidInput, match=_TOO_MANY):
        schema_grammar(schema, "s")


@pytest.mark.parametrize("schema", _USUAL_SCHEMAS)
def test_schema_when_usual_then_accepted(schema: dict[str, Any]):
    assert schema_grammar(schema, "s")


@pytest.mark.parametrize("grammar", _CALM)
def test_grammar_when_accepted_then_no_short_text_takes_llama_long(model: Model, grammar: str):
    """CPU time, with a limit far above the usual milliseconds: a hostile one takes minutes."""
    check_runs(checked_rules(grammar))
    for text in ("a" * 12, " " * 40, "word 1", "(a + b)"):
        assert _cpu_seconds(model, grammar, text) < 2.0


def _cpu_seconds(model: Model, grammar: str, text: str) -> float:
    """For one mask over the vocabulary after each character of the text that is allowed."""
    sampler, logits, started = create_grammar_sampler(model, grammar), LogitsArray(model), 0.0
    started = time.thread_time()
    try:
        for byte in text.encode():
            everything = (model.lib.llama_token_data * model.vocabulary_size)()
            for token, entry in enumerate(everything):
                entry.id, entry.logit = token, 1.0
            array = model.lib.llama_token_data_array(everything, len(everything), -1, False)
            model.lib.llama_sampler_apply(sampler, ctypes.byref(array))
            if not logits.allows(sampler, BYTES + byte):
                break
            model.lib.llama_sampler_accept(sampler, BYTES + byte)
    finally:
        model.lib.llama_sampler_free(sampler)
    return time.thread_time() - started
